"""A reload reaches every worker, and what cannot be read leaves the old things in place."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.common.errors import SettingsError
from app.pricing.model_table import ModelTable, version_of
from app.reloading import LiveModelTable, RefusedReload, Reloader, ReloadNotice


def table(*ids: str) -> ModelTable:
    return ModelTable.from_toml(
        "\n".join(f'[[models]]\nid = "{model_id}"\ninput = 1\noutput = 2' for model_id in ids)
    )


class Worker:
    """One worker's parts; `file` is what the models' file holds, an error if it is broken."""

    def __init__(self, data_dir: Path, file: list[ModelTable | SettingsError]) -> None:
        self.models = LiveModelTable(table("old"))
        self.file = file
        self.noted: list[tuple[ModelTable, str | None]] = []
        self.refreshes = self.invalidations = 0
        self.problem: str | None = None
        self.reloader = Reloader(
            data_dir,
            models=self.models,
            load_models=self.load,
            note_table=lambda table, admin: self.noted.append((table, admin)),
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

    def refresh(self) -> bool:
        self.refreshes += 1
        return self.problem is None

    def snapshot(self) -> list[object]:
        return [object(), object()]

    def outdate_all(self) -> None:
        self.invalidations += 1

    @property
    def ids(self) -> list[str]:
        return [model.id for model in self.models]


def two(tmp_path: Path, content: ModelTable | SettingsError) -> tuple[Worker, Worker]:
    return Worker(tmp_path, [content]), Worker(tmp_path, [content])


def test_all_workers_reload_once(tmp_path: Path) -> None:
    asked, other = two(tmp_path, table("a", "b"))
    done = asked.reloader.reload_everywhere("ada")
    assert (done.success, done.models, done.upstream_keys) == (True, 2, 2)
    for _ in range(3):
        asked.reloader.follow()
        other.reloader.follow()
    assert asked.ids == other.ids == ["a", "b"]
    assert (asked.refreshes, asked.invalidations) == (other.refreshes, other.invalidations) == (1, 1)
    assert other.models.resolve("old") is None
    new = asked.file[-1]
    assert asked.noted == other.noted == [(new, "ada")]
    assert asked.models.in_force is other.models.in_force is new


def test_a_request_goes_on_with_the_table_of_its_beginning(tmp_path: Path) -> None:
    worker, _ = two(tmp_path, table("new"))
    began_with = worker.models.in_force
    worker.reloader.reload_everywhere("ada")
    assert began_with.named("new") is None
    assert began_with.named("old") is not None
    assert (began_with.version, worker.models.version) == (
        version_of(table("old").text),
        version_of(table("new").text),
    )


def test_a_worker_that_starts_later_does_not_reload(tmp_path: Path) -> None:
    asked, _ = two(tmp_path, table("a"))
    asked.reloader.reload_everywhere("ada")
    late = Worker(tmp_path, [table("a")])
    late.reloader.follow()
    assert late.refreshes == 0


def test_a_broken_file_leaves_the_old_table_and_each_worker_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked, other = two(tmp_path, SettingsError("MODELS_FILE: models.toml: model 'x': input: missing"))
    done = asked.reloader.reload_everywhere("ada")
    other.reloader.follow()
    assert (done.success, done.is_temporary, done.keys_read) == (False, False, True)
    assert list(done.problems) == ["models"]
    assert done.message == (
        "MODELS_FILE: models.toml: model 'x': input: missing; the old model table (1 model) stays in force; "
        "upstream keys and users were read anew"
    )
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [("ERROR", f"reload failed: {done.message}")] * 2
    assert asked.ids == other.ids == ["old"]
    assert (asked.refreshes, asked.invalidations) == (1, 1)


def test_all_workers_tell_of_a_refused_reload_until_one_works(tmp_path: Path) -> None:
    asked, other = two(tmp_path, SettingsError("MODELS_FILE: models.toml: model 'x': input: missing"))
    asked.reloader.reload_everywhere("ada")
    late = Worker(tmp_path, [table("a")])
    told = asked.reloader.refused()
    assert told is not None
    assert told == other.reloader.refused() == late.reloader.refused()
    assert "input: missing; the old model table (1 model) stays in force" in told.reason

    asked.problem = "connection refused"  # another matter: the table was read
    asked.file.append(table("a"))
    asked.reloader.reload_everywhere("ada")
    assert asked.reloader.refused() is other.reloader.refused() is None


def test_what_is_no_notice_is_none(tmp_path: Path) -> None:
    notice = ReloadNotice(tmp_path, lambda: datetime(2026, 11, 30, 12, 0, tzinfo=UTC))
    notice.write("one line")
    assert notice.read() == RefusedReload("2026-11-30T12:00:00Z", "one line")
    [path] = tmp_path.iterdir()
    for content in ('{"at": "', "[1]", '{"reason": "x"}', "1"):
        path.write_text(content)
        assert notice.read() is None
    notice.remove()
    notice.remove()
    assert notice.read() is None


def test_without_the_store_what_is_cached_stays(tmp_path: Path) -> None:
    asked, _ = two(tmp_path, table("a"))
    asked.problem = "connection refused"
    done = asked.reloader.reload_everywhere("ada")
    assert (done.success, done.is_temporary, done.keys_read) == (False, True, False)
    assert done.message == (
        "the database cannot answer (connection refused); "
        "upstream keys and users stay in force as they were; 1 model was read anew"
    )
    assert (asked.ids, asked.invalidations) == (["a"], 0)


def test_a_marker_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    asked = Worker(tmp_path / "missing", [table("a")])
    done = asked.reloader.reload_everywhere("ada")
    assert done.message.startswith("the other workers could not be told and go on with what they have: ")
    assert asked.ids == ["a"]
