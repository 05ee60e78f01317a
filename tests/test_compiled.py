"""Compiled programs outlive a run, in a folder of their own kind of processor, and never stop a run."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ars_jax import compiled
from ars_jax.cli import main
from ars_jax.compiled import default_folder, kept_programs, processor
from ars_jax.errors import UserError
from tests.small_runs import write_config

SETTING = "jax_compilation_cache_dir"
CPUINFO = "processor: 0\nmodel: 1\ncpu MHz: {mhz}\nflags: fpu {flag}\n\nprocessor: 1\nflags: other\n"


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small programs compile in no time, and none is in the process's memory before or after."""
    monkeypatch.setattr(compiled, "SHORTEST_SECONDS", 0)
    jax.clear_caches()
    yield
    jax.clear_caches()


def compile_program(number: float = 2.0) -> None:
    """Compiles a program that nothing of this process's memory holds."""
    jax.clear_caches()
    jax.jit(lambda x: x * number).lower(jax.ShapeDtypeStruct((3,), jnp.float32)).compile()


def programs(folder: Path) -> dict[str, bytes]:
    """The kept programs and, by the name of the program, when each was used last."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("jit*"))}


def test_a_later_run_finds_the_program(tmp_path: Path) -> None:
    with kept_programs(tmp_path):
        compile_program()
    first = programs(tmp_path)
    with kept_programs(tmp_path):
        compile_program()
    second = programs(tmp_path)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == [name for name in first if "-atime" in name]


def test_memory_and_cost_of_a_found_program_are_those_of_the_compiled_one(tmp_path: Path) -> None:
    def described() -> tuple[object, ...]:
        jax.clear_caches()
        made = jax.jit(lambda x: jnp.sin(x @ x).sum(0)).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile()
        memory = made.memory_analysis()
        assert memory is not None
        return (
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
            memory.output_size_in_bytes,
            made.cost_analysis(),
        )

    with kept_programs(tmp_path):
        assert described() == described()


def test_everything_is_as_before_afterwards(tmp_path: Path) -> None:
    names = (SETTING, "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with pytest.raises(ZeroDivisionError), kept_programs(tmp_path):
        assert getattr(jax.config, SETTING) == str(tmp_path / processor())
        raise ZeroDivisionError
    assert [getattr(jax.config, name) for name in names] == before
    compile_program()
    assert not programs(tmp_path)


def test_a_folder_that_jax_was_told_to_use_is_used_as_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "default_folder", lambda: tmp_path / "ours")
    before = getattr(jax.config, SETTING)
    jax.config.update(SETTING, str(tmp_path / "theirs"))
    try:
        with kept_programs():
            assert getattr(jax.config, SETTING) == str(tmp_path / "theirs")
    finally:
        jax.config.update(SETTING, before)
    assert not (tmp_path / "ours").exists()


def test_a_home_that_cannot_be_written_keeps_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled, "default_folder", lambda: tmp_path / "file" / "compiled")
    with kept_programs():
        assert not getattr(jax.config, SETTING)
        compile_program()


def test_a_user_without_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled, "default_folder", homeless)
    with kept_programs():
        assert not getattr(jax.config, SETTING)


def test_a_given_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/compiled: found Not a directory; wanted a folder that can be written"):
        with kept_programs(tmp_path / "file" / "compiled"):
            pass


def test_what_a_killed_run_left_does_not_stop_later_ones_from_writing(tmp_path: Path) -> None:
    with kept_programs(tmp_path):
        compile_program(2.0)
    (used,) = tmp_path.rglob("*-atime")
    used.unlink()
    with kept_programs(tmp_path):
        compile_program(3.0)
    assert len(list(tmp_path.rglob("*-cache"))) == len(list(tmp_path.rglob("*-atime"))) == 1


def test_a_damaged_program_is_compiled_again_without_a_word(tmp_path: Path) -> None:
    with kept_programs(tmp_path):
        compile_program()
        (program,) = tmp_path.rglob("*-cache")
        program.write_bytes(b"damaged")
        compile_program()


def test_the_folder_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept_programs(tmp_path):
        compile_program(2.0)
    (first,) = tmp_path.rglob("*-cache")
    monkeypatch.setattr(compiled, "LIMIT_BYTES", int(1.5 * first.stat().st_size))
    with kept_programs(tmp_path):
        compile_program(3.0)
    (left,) = tmp_path.rglob("*-cache")
    assert left != first


def test_processors_of_other_instruction_sets_have_other_folders(tmp_path: Path) -> None:
    def named(**facts: object) -> str:
        path = tmp_path / "cpuinfo"
        path.write_text(CPUINFO.format(**facts))
        return processor(path)

    assert named(mhz=1, flag="avx2") == named(mhz=2, flag="avx2") != named(mhz=1, flag="avx512f")
    assert processor(tmp_path / "none").split("-")[0] == named(mhz=1, flag="avx2").split("-")[0]


def test_the_folder_is_among_the_caches_of_the_user(tmp_path: Path) -> None:
    assert default_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "ars_jax" / "compiled"
    for relative in ({}, {"XDG_CACHE_HOME": "here"}):
        assert default_folder(relative) == Path.home() / ".cache" / "ars_jax" / "compiled"


def test_the_option_reaches_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    config = write_config(tmp_path / "config.yaml", tmp_path / "data", tmp_path / "run")
    assert main(["train", "--config", str(config), "--compiled", str(tmp_path / "file" / "compiled")]) == 2
    assert "wanted a folder that can be written" in " ".join(capsys.readouterr().err.split())
