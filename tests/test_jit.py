"""Where compiled kernels are kept: in a folder that an edit of any source renames, wherever one can be written."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import hops
from hops import jit

SOURCES = Path(hops.__file__).parent


@pytest.fixture(autouse=True)
def _forget():
    jit.cache_folder.cache_clear()
    yield
    jit.cache_folder.cache_clear()


def test_cache__is_renamed_by_an_edit_of_any_source(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    for path in SOURCES.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "jit.py"))
    folders = {jit.cache_folder()}
    for name in ("noise.py", "kernels.py", "graph.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# edited\n")
        jit.cache_folder.cache_clear()
        folders.add(jit.cache_folder())
    assert len(folders) == 4
    assert all(folder.parent == tmp_path / "cache" / "hops-numba" for folder in folders)


def test_cache__falls_back_to_what_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temp"))
    assert jit.cache_folder().parent == tmp_path / "temp" / f"user-{os.getuid()}" / "hops-numba"


def test_cache__prunes_its_own_old_folders_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    old, young, precious = (tmp_path / "hops-numba" / name for name in ("0" * 16, "1" * 16, "precious"))
    for folder in (old, young, precious):
        folder.mkdir(parents=True)
        if folder != young:
            os.utime(folder, (0, 0))
    current = jit.cache_folder()
    assert {path.name for path in current.parent.iterdir()} == {young.name, precious.name, current.name}


def test_kernel__leaves_the_users_own_cache_setting_alone():
    before = numba.config.CACHE_DIR

    @jit.kernel
    def add(a, b):
        return a + b

    assert add(1, 2) == 3
    assert before == numba.config.CACHE_DIR


def test_kernel__is_compiled_once_for_all_constants(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # what is loaded there is not compiled

    @jit.kernel
    def double(a):
        return 2 * a

    @jit.kernel
    def total(a):
        return double(1) + double(2) + double(a=a)

    assert total(3) == 12
    assert len(double.signatures) == 1


def test_pipe__closed_by_its_reader_is_no_traceback(tmp_path):
    words = f"{sys.executable} -m hops pp=2 microbatches=2 draws=5 | head -1"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("1f1b on dgx")
    assert done.stderr == ""


def test_inner__is_refused_to_python_instead_of_crashing():
    from hops.window import draw_links

    with pytest.raises(TypeError, match="draw_links is called by kernels only"):
        draw_links(1, 2)
