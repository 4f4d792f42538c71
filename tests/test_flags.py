"""A misspelt or shortened flag is refused by every command, before anything else is said of the command line."""

from __future__ import annotations

import importlib

import pytest

# each with a flag of its own, one letter short
COMMANDS = {
    "pipelines.dehaze.apply": "--strengt",
    "pipelines.ingest.card.__main__": "--sample",
    "pipelines.dehaze.__main__": "--concurrenc",
    "pipelines.demo.__main__": "--from-scratc",
    "pipelines.doctor.__main__": "--tracking-ur",
    "pipelines.evaluate.__main__": "--headlin",
    "pipelines.ingest.__main__": "--holdou",
    "pipelines.register": "--alia",
    "pipelines.train.__main__": "--recip",
    "pseudolabel.__main__": "--shee",
    "serving.__main__": "--token-fil",
}


@pytest.mark.parametrize("module", COMMANDS)
def test_a_misspelt_flag_names_the_nearest(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit) as raised:
        main([COMMANDS[module], "x"])
    assert raised.value.code == 2
    assert f"unknown flag {COMMANDS[module]}; did you mean '{COMMANDS[module]}" in capsys.readouterr().err
