"""A user's own order, from a file of one comma-separated line a rank: what `Program.to_csv` writes, or torch, with or without messages."""

from hashlib import blake2b
from pathlib import Path

from hops.checks import Infeasible
from hops.schedules import Program, schedule


def version(path: str | None = None) -> str:
    """Digest of the file, so that what is remembered for it ends when it changes."""
    return blake2b(Path(path).read_bytes(), digest_size=8).hexdigest() if path is not None and Path(path).is_file() else ""


@schedule("file", source="the file", version=version)
def file(pp: int, microbatches: int, *, path: str | None = None) -> Program:
    if path is None:
        raise Infeasible("schedule=file needs schedule.path, a file of one comma-separated line a rank (0F0,0F1,...)")
    if not Path(path).is_file():
        raise ValueError(f"schedule.path: no file {path!r} (looked in {Path.cwd()})")
    program = Program.from_csv(path, path)
    if (program.pp, program.microbatches) != (pp, microbatches):
        found = f"pp={program.pp} microbatches={program.microbatches}"
        raise Infeasible(f"{path} orders {found}; got pp={pp} microbatches={microbatches} (try {found})")
    return program
