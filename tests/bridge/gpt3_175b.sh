#!/bin/bash
#SBATCH --job-name=gpt3 --time=4:00:00
# Pretrains GPT-3 175B on 16 nodes; the layout is a matter of taste, don't ask.

export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NUM_NODES=${NUM_NODES:-16}
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))
TP=8
PP=${PP:-8}
DATA_PATH=$1
if [ -z "$VPP" ]; then
    VPP=3
fi

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
    --node_rank $SLURM_NODEID
    --master_addr "$(scontrol show hostname "$SLURM_NODELIST" | head -n1)"
)
GPT_ARGS=(
    --num-layers 96
    --hidden-size 12288
    --num-attention-heads 96
    --seq-length 2048
    --max-position-embeddings 2048
    --tokenizer-type GPT2BPETokenizer
)
PARALLEL_ARGS="
    --tensor-model-parallel-size ${TP} \
    --pipeline-model-parallel-size $PP \
    --num-virtual-stages-per-pipeline-rank $VPP \
    --sequence-parallel"
PARALLEL_ARGS+=" --use-distributed-optimizer --overlap-grad-reduce"
TRAINING_ARGS=(
    --micro-batch-size 1 --global-batch-size $((WORLD_SIZE * 12))
    --train-iters 500000 --lr 6.0e-5 --min-lr 6.0e-6 --lr-decay-style cosine  # as in the paper
    --weight-decay 0.1 --clip-grad 1.0 --bf16 --tp-comm-overlap --defer-embedding-wgrad-compute
    --data-path "$DATA_PATH" --split 949,50,1
    --recompute-granularity selective
)

torchrun "${DISTRIBUTED_ARGS[@]}" pretrain_gpt.py \
    "${GPT_ARGS[@]}" \
    $PARALLEL_ARGS \
    ${TRAINING_ARGS[@]} 2>&1 | tee train.log
