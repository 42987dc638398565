"""Options of `realnet` itself, and the help of its commands."""

import tomllib

import click
import pytest
import typer
from typer.testing import CliRunner

from realnet.cli import app
from realnet.config.params import PROJECT


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_version_is_that_of_the_package():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"realnet-bench {version}\n")


def test_shell_completion_can_be_installed_and_shown():
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "--install-completion" in text and "--show-completion" in text


def test_completion_names_the_commands(monkeypatch):
    monkeypatch.setenv("_REALNET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "realnet pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = CliRunner().invoke(app, [], prog_name="realnet")
    assert done.stdout.split() == ["predict"]


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_a_help_text(name):
    command = COMMANDS[name]
    assert command.help
    without = [
        part.name
        for part in command.params
        if isinstance(part, click.Option | click.Argument) and not getattr(part, "help", None)
    ]
    assert not without
