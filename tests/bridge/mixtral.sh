#!/bin/bash
# Mixtral 8x7B in one command line, as srun hands it to bash; the number of nodes is the scheduler's
#SBATCH --nodes=4 --gpus-per-node=8
#SBATCH -t 4:00:00

OPTIONS=" \
    --num-layers=32 --hidden_size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 \
    --group-query-attention --num-query-groups 8 --swiglu --seq-length 4096 \
    --num-experts 8 --moe-router-topk 2 --expert-model-parallel-size 8 --moe-grouped-gemm \
    --pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 7 --decoder-last-pipeline-num-layers 7 \
    --micro-batch-size 1 --global-batch-size 256 --bf16 --use-distributed-optimizer \
    --tokenizer-type Llama2Tokenizer --untie-embeddings-and-output-weights --data-path $DATA"
if [ "$FP8" = 1 ]; then
    OPTIONS="$OPTIONS --fp8-format hybrid"
fi
srun --ntasks-per-node=1 bash -c "torchrun --nnodes $SLURM_NNODES --nproc-per-node=8 pretrain_gpt.py $OPTIONS"
