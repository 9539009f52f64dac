"""A reload reaches every worker, and what cannot be read leaves the old things in place."""

from pathlib import Path

from app.adapters.reloading import LiveModelTable, Reloader
from app.core.pricing import ModelTable
from app.settings import SettingsError


def table(*ids: str) -> ModelTable:
    return ModelTable.from_toml(
        "\n".join(f'[[models]]\nid = "{model_id}"\ninput = 1\noutput = 2' for model_id in ids)
    )


class Worker:
    """One worker's parts; `file` is what the models' file holds, an error if it is broken."""

    def __init__(self, marker: Path, file: list[ModelTable | SettingsError]) -> None:
        self.models = LiveModelTable(table("old"))
        self.file = file
        self.refreshes = self.invalidations = 0
        self.problem: str | None = None
        self.reloader = Reloader(
            marker,
            models=self.models,
            load_models=self.load,
            refresh_keys=self.refresh,
            count_keys=lambda: len(self.snapshot()),
            directory=self,
            store_problem=lambda: self.problem,
        )

    def load(self) -> ModelTable:
        content = self.file[-1]
        if isinstance(content, SettingsError):
            raise content
        return content

    def refresh(self) -> None:
        self.refreshes += 1

    def snapshot(self) -> list[object]:
        return [object(), object()]

    def invalidate_all(self) -> None:
        self.invalidations += 1

    @property
    def ids(self) -> list[str]:
        return [model.id for model in self.models]


def two(tmp_path: Path, content: ModelTable | SettingsError) -> tuple[Worker, Worker]:
    return Worker(tmp_path / "reload", [content]), Worker(tmp_path / "reload", [content])


def test_all_workers_reload_once(tmp_path: Path) -> None:
    asked, other = two(tmp_path, table("a", "b"))
    done = asked.reloader.reload_everywhere()
    assert (done.success, done.models, done.upstream_keys) == (True, 2, 2)
    for _ in range(3):
        asked.reloader.follow()
        other.reloader.follow()
    assert asked.ids == other.ids == ["a", "b"]
    assert (asked.refreshes, asked.invalidations) == (other.refreshes, other.invalidations) == (1, 1)
    assert other.models.resolve("old") is None


def test_a_worker_that_starts_later_does_not_reload(tmp_path: Path) -> None:
    asked, _ = two(tmp_path, table("a"))
    asked.reloader.reload_everywhere()
    late = Worker(tmp_path / "reload", [table("a")])
    late.reloader.follow()
    assert late.refreshes == 0


def test_a_broken_file_leaves_the_old_table_and_says_why(tmp_path: Path) -> None:
    asked, other = two(tmp_path, SettingsError("MODELS_FILE: models.toml: model 'x': input: missing"))
    done = asked.reloader.reload_everywhere()
    other.reloader.follow()
    assert not done.success
    assert done.message == "MODELS_FILE: models.toml: model 'x': input: missing; the old model table stays"
    assert asked.ids == other.ids == ["old"]
    assert (asked.refreshes, asked.invalidations) == (1, 1)


def test_without_the_store_what_is_cached_stays(tmp_path: Path) -> None:
    asked, _ = two(tmp_path, table("a"))
    asked.problem = "connection refused"
    done = asked.reloader.reload_everywhere()
    assert "the database cannot answer: connection refused" in done.message
    assert (asked.ids, asked.invalidations) == (["a"], 0)


def test_a_marker_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    asked = Worker(tmp_path / "missing" / "reload", [table("a")])
    done = asked.reloader.reload_everywhere()
    assert done.message.startswith("the other workers could not be told: ")
    assert asked.ids == ["a"]
