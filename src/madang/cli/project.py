"""`madang init`, `doctor`, `version`."""

from __future__ import annotations

import click

from madang.cli.output import as_json, open_stack, print_json, print_table


@click.command()
@click.argument("folder", default=".")
@click.option("--name", help="The project's name (default: the folder's).")
def init(folder: str, name: str | None) -> None:
    """Make a project in FOLDER: madang.toml and folders for code."""
    from madang.stack import init as make

    project = make(folder, name=name)
    click.echo(f"made project {project.name!r} in {project.root}")
    click.echo("next: madang doctor, then madang up")


@click.command()
@as_json
def doctor(json: bool) -> int:
    """Show each box of the map: its engine, how it is, and what to do."""
    from madang.doctor import examine

    with open_stack() as stack:
        boxes = examine(stack)
    if json:
        print_json(boxes)
    else:
        print_table(
            ["box", "engine", "state", "detail"],
            [
                (
                    b.box,
                    b.engine,
                    "ok" if b.ok else "FAULT",
                    f"{b.detail}; {b.advice}" if b.advice else b.detail,
                )
                for b in boxes
            ],
        )
    return 0 if all(box.ok for box in boxes) else 1


@click.command()
@as_json
def version(json: bool) -> None:
    """Print the version of Madang and of Python."""
    import platform

    import madang

    if json:
        print_json({"madang": madang.__version__, "python": platform.python_version()})
    else:
        click.echo(f"madang {madang.__version__} (Python {platform.python_version()})")
