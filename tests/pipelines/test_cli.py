"""The `dehaze` command."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines import cli

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_the_verbs_without_loading_anything_heavy() -> None:
    code = (
        "import sys; from pipelines.cli import main; main(['--help']);"
        "heavy = {'torch', 'ray', 'mlflow', 'fastapi'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb, (_, line) in cli.VERBS.items():
        assert f"  {verb:<10}{line}\n" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ray-dehaze {version('ray-dehaze')}\n"


def test_every_verb_has_its_module() -> None:
    for module, _ in cli.VERBS.values():
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: no file 'trian' here, and no verb of that name; did you mean 'train'?\n"
    assert cli.main([]) == 2


def test_a_verb_gets_the_rest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["apply"], []):  # the verb may be left out
        assert cli.main([*words, str(tmp_path / "nothing.jpg")]) == 2
        assert "nothing.jpg" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", "--help"])
    assert left.value.code == 0
    assert "--port" in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_the_usage_of_a_verb_says_what_was_typed(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/dehaze", verb, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"usage: dehaze {verb} " in capsys.readouterr().out
    module = cli.VERBS[verb][0].removesuffix(".__main__")
    if cli.VERBS[verb][0] != module:
        monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", "--help"])
        with pytest.raises(SystemExit):
            import_module(cli.VERBS[verb][0]).main()
        assert f"usage: python -m {module} " in capsys.readouterr().out


def test_no_command_guesses_at_a_flag_that_is_cut_short() -> None:
    """A parser that takes ``--over`` for ``--overwrite`` also takes a misspelt flag for another one."""
    folders = ("models", "pseudolabel", "pipelines", "serving")
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("ArgumentParser", ".add_parser")):
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert said.get("allow_abbrev") == "False", f"{file}:{node.lineno}"


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    """Torch and Ray take seconds, which nobody who asks for the flags should wait."""
    code = (
        "import sys, contextlib; from pipelines.cli import main\n"
        f"with contextlib.suppress(SystemExit): main(['{verb}', '--help'])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'fastapi', 'transformers'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
