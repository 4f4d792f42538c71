"""Every block of the README and of the pages is run, or is checked by what would run it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from models.config import ConfigError, parse, parse_words
from pipelines.cli import VERBS
from pipelines.cli import _names_photographs as names_photographs
from pipelines.dehaze.apply import main as apply
from pipelines.train import Recipe, load_recipe
from serving.config import ServingConfig
from tests.documents import PAGES, ROOT, Block, blocks_of

parser_of = cache(pytest.importorskip("docs.hooks", reason="mkdocs is not installed").parser_of)
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
TUTORIAL = ROOT / "docs" / "tutorials" / "first-photograph.md"
SERVICE = ("serve.md", "http-api.md")  # tests/serving/test_documentation.py runs these with a service
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
# Programs of others (and what the shell has itself), of which only the syntax of the line is checked.
OTHERS = {"apt-get", "bash", "cat", "curl", "docker", "export", "hf", "kubectl", "mlflow", "openssl", "ray", "serve"}
ASSIGNMENT = re.compile(r"^\w+=|^\$\w+$")  # or a variable that holds the first words


def test_there_is_no_language_that_nothing_checks() -> None:
    known = {"sh", "python", "yaml", "json", "text", "nginx", "pbtxt", ""}
    assert {block.language for block in BLOCKS} <= known


# ---------------------------------------------------------------------------------------------- shell


def module_of(name: str) -> str:
    return f"{name}.__main__" if (ROOT / name.replace(".", "/") / "__main__.py").is_file() else name


def lines_of(text: str) -> Iterator[str]:
    """Return the lines of a script; one that ends within quotes goes on with the next."""
    line = ""
    for part in text.replace("\\\n", " ").splitlines():
        line += part
        try:
            shlex.split(line, comments=True)
        except ValueError:
            line += "\n"
            continue
        yield line
        line = ""


def commands_of(block: Block) -> Iterator[list[str]]:
    """Return the words of each command of a block, without redirections and assignments."""
    for line in lines_of(block.text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in [*lexer, ";"]:
            if redirected:
                redirected = False
            elif re.fullmatch(r"[<>]+", word):
                redirected = True
            elif not re.fullmatch(r"[|&;()]+", word):
                words.append(word)
            else:
                while words and ASSIGNMENT.match(words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []


def check(words: list[str]) -> None:
    """Take a command as its own parser does."""
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        assert rest[0] in TARGETS, words
    elif program == "dehaze":
        if rest[0] not in VERBS:
            assert names_photographs(rest[0]), words
            rest.insert(0, "apply")
        accept(VERBS[rest[0]][0], rest[1:])
    elif program in ("python", "python3") and rest[0] == "-m":
        if rest[1].partition(".")[0] in ("models", "pseudolabel", "serving", "pipelines", "benchmarks"):
            accept(module_of(rest[1]), rest[2:])
        else:
            assert rest[1] in ("venv", "pytest"), words
    elif program in ("python", "python3"):
        compile(rest[rest.index("-c") + 1], "-c", "exec")
    elif program == "ray" and "--" in rest:
        assert rest[:2] == ["job", "submit"]
        check(rest[rest.index("--") + 1 :])
    elif program == "pip":
        extras = re.findall(r"ray-dehaze\[([\w,]+)\]", " ".join(rest))
        assert set(",".join(extras).split(",")) - {""} <= EXTRAS, words
    elif program == "pytest":
        assert all((ROOT / word.partition("::")[0]).exists() for word in rest if word.startswith("tests/")), words
    else:
        assert program in OTHERS | {"umask"}, words


def accept(module: str, words: list[str]) -> None:
    """Parse the words of a command, and build the recipe that it names."""
    try:
        args = parse_words(parser_of(module), words)
    except SystemExit as refused:
        raise AssertionError(f"{module} does not take {words}") from refused
    recipe = getattr(args, "recipe", None)
    if recipe is not None and "://" not in recipe:
        overrides = getattr(args, "set", None) or getattr(args, "overrides", None) or ()
        load_recipe(recipe, list(overrides))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_taken_by_their_parsers(block: Block) -> None:
    bash = shutil.which("bash")
    if bash is not None:
        done = subprocess.run([bash, "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    for words in commands_of(block):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "dehaze photo.jpg --strengt 1",
        "make demmo",
        "python -m pipelines.train --recipe colabator_corrun --clear c --out o",
        "ray job submit -- python -m pipelines.train --recipe cddgan --clear c --hazy h --out o --set train.step=1",
        "pip install 'ray-dehaze[vidio]'",
        "true && derhaze photo.jpg",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    (*_, words) = commands_of(Block(ROOT / "README.md", "sh", "", line + "\n", 1))
    with pytest.raises((AssertionError, ConfigError)):
        check(words)


# ---------------------------------------------------------------------------------------------- Python, YAML, JSON


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: with a photograph in it."""
    where = tmp_path_factory.mktemp("examples")
    pixels = np.random.default_rng(0).integers(90, 160, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(where / "photo.jpg")
    return where


def pages_with(language: str) -> list[Path]:
    pages = [page for page in PAGES if page.name not in SERVICE]
    return [page for page in pages if any(block.language == language for block in blocks_of(page))]


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with the names of the blocks before; of a block that takes long only the imports."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.language == "python":
            tree = ast.parse(block.text, filename=str(block))
            if block.word != "run":
                tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec(compile(tree, str(block), "exec"), names)  # noqa: S102 - our own


def test_the_first_photograph_is_as_hazy_as_the_tutorial_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python, told, *_ = (block for block in blocks_of(TUTORIAL) if block.word == "run" or block.language == "text")
    monkeypatch.chdir(tmp_path)
    exec(compile(python.text, str(python), "exec"), {})  # noqa: S102 - our own
    capfd.readouterr()
    assert apply(["photo.jpg"]) == 0
    printed = capfd.readouterr()
    assert (printed.out + printed.err).replace(str(tmp_path), "/home/you") == told.text


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_is_part_of_a_recipe_or_of_the_service(block: Block) -> None:
    tree = yaml.safe_load(block.text)
    if block.page.name in SERVICE:
        parse(ServingConfig, tree["applications"][0]["args"] if "applications" in tree else tree)
        return
    if "contrastive" in tree.get("weights", {}):
        tree.setdefault("perceptual", {"backbone": "vgg19"})
    parse(Recipe, {"method": "supervised"} | tree)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)
