"""The command line: parse, call, print. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 interrupted or failed in a way that nobody foresaw, 2 bad input, told in one line.
"""

from __future__ import annotations

import sys

import click

from ditzoo.errors import DitzooError


class Commands(click.Group):
    """The commands of ditzoo, and after them those of plugins; a name that ditzoo has is its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(self._of_plugins().keys() - self.commands.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._of_plugins().get(cmd_name)

    @staticmethod
    def _of_plugins() -> dict[str, click.Command]:
        from ditzoo.zoo import Zoo

        return Zoo.installed(warn=False).commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ditzoo")
def commands() -> None:
    """ditzoo: diffusion transformers by name, from parts that compose."""


def main() -> None:
    """Run the command line; turn what a person can cause into one line and exit code 2."""
    from ditzoo.cli import authoring, looking, making, measuring, moving

    looking.add_to(commands)
    authoring.add_to(commands)
    making.add_to(commands)
    measuring.add_to(commands)
    moving.add_to(commands)
    try:
        commands.main(standalone_mode=False)
    except DitzooError as error:
        fail(str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def fail(message: str) -> None:
    """Print each line of an error and exit with 2."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(2)
