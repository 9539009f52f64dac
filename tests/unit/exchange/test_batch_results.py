"""What the results of a batch come to, model by model."""

from datetime import UTC, datetime

from app.exchange.batch_results import BatchResults, Group
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Terms
from app.wires.formats.batches import BatchResult

TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "a"
    input = "2"
    output = "4"

    [[models]]
    id = "b"
    input = "2"
    output = "4"
    """
)


def groups_of(*results: BatchResult) -> dict[str | None, Group]:
    emitted: list[Group] = []
    found = BatchResults(TABLE, None, emitted.append, Terms(datetime(2026, 11, 30, tzinfo=UTC)))
    for result in results:
        found.add(result)
    last = found.take_last()
    return {group.model.id if group.model else None: group for group in (*emitted, last) if group is not None}


def result(name: str, model: str, **told: object) -> BatchResult:
    return BatchResult(name, model, {"input_tokens": 10, "output_tokens": 1, **told})


def test_what_the_upstream_charged_is_known_where_it_is_told_of_each() -> None:
    groups = groups_of(
        result("1", "a", cost="0.000000003"),
        result("2", "a", cost={"total_cost": 0}),
        result("3", "b", cost=0.5),
        result("4", "b"),
    )
    assert {model: group.upstream_cost_nano for model, group in groups.items()} == {"a": 3, "b": None}
    assert [item[-1] for item in groups["b"].items] == [500_000_000, None]
    assert [item[:4] for item in groups["a"].items] == [["1", 24_000, 10, 1], ["2", 24_000, 10, 1]]
