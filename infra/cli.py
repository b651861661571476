"""`longrank`: one command per file of `infra/commands/`, imported only when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

#: command -> (module below infra.commands, what `longrank --help` says of it)
COMMANDS: Final = {
    "up": ("up", "Start the local Kafka broker and Flink cluster."),
    "status": ("status", "Say what runs where."),
    "down": ("down", "Stop exactly what `up` started."),
    "topics": ("topics", "Create or check the topics and the first offsets."),
    "config": ("config", "Show a job's configuration as it takes effect."),
    "seed": ("seed", "Put years of history in front of what the job holds."),
    "rebuild": ("rebuild", "Give a job that lost its state its histories back."),
    "replay": ("replay", "Send a recorded log as live traffic."),
    "serve": ("serve", "Answer score requests from Kafka."),
    "land": ("land", "Put the examples into Parquet files by day."),
    "retrain": ("retrain", "Train on what was served; gate, export, publish."),
    "presets": ("presets", "Show the model's sizes, in parameters and in work."),
    "bundle": ("bundle", "List, show, initialise, promote model bundles."),
    "verify": ("verify", "Prove that training sees what serving saw."),
    "erase": ("erase", "Forget a user, everywhere, with a receipt; or prove it."),
    "inspect": ("inspect", "Print one user's history."),
    "dlq": ("dlq", "List and show dead letters."),
    "experiment": ("experiment", "Compare rankers on a recorded log."),
    "bench": ("bench", "Measure: speed, size, faults."),
    "demo": ("demo", "The whole loop on the bundled log."),
}


#: Errors of our own, and Kafka's, that say what to do. By name: importing them all would load torch for `status`.
EXPECTED_ERRORS: Final = frozenset(
    {
        "kafka.errors.KafkaError",
        "infra.replay.application.ReplayError",
        "infra.replay.driver.ReplayStalledError",
        "infra.seed.errors.SeedError",
        "scorer.export.parity.ParityError",
        "scorer.landing.bounded.BoundedReadError",
        "scorer.landing.objects.LakeError",
        "scorer.landing.resolve.UnresolvedError",
        "scorer.registry.registry.BundleError",
        "scorer.sequences.partition.StoreError",
        "scorer.sequences.reads.NotKeptError",
        "scorer.sequences.source.FollowError",
        "streaming.config.ConfigError",
    }
)


class _LazyGroup(click.Group):
    """Imports a command's module when it is called, so that `longrank serve` never loads torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"infra.commands.{COMMANDS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a person can put right ends it with one line, not with a traceback."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
            if names & EXPECTED_ERRORS:
                raise click.ClickException(f"{type(error).__name__}: {error}") from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup)
@click.version_option(package_name="longrank")
def main() -> None:
    """Rank short videos against a user's last 10,000 actions, live."""


if __name__ == "__main__":
    main()
