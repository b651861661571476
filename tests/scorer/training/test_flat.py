"""Flat batches: the same function as serving's, ragged or one by one, and gradients as plain torch gives them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_log import FEATURES, SMALL, planted
from torch import distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from scorer.export.graphs import tensors
from scorer.features import HistoryHead, featurise_history, featurise_targets
from scorer.metrics import gauc
from scorer.model import STCA
from scorer.model.attention import NULL_VALUE, Ragged, attend
from scorer.model.flat import score_flat
from scorer.model.flops import forward_flops
from scorer.training.checkpoint import Checkpoints
from scorer.training.columns import Columns
from scorer.training.dataset import RankingDataset
from scorer.training.flat import Lookup, collate_flat, flat_inputs, load_ahead, tiles
from scorer.training.flat_predict import predict_flat, stca_forward
from scorer.training.flat_train import FlatTrainer, Report, stca_tables
from scorer.training.settings import TrainingSettings
from scorer.training.steps import StepSize, plan_steps
from scorer.training.tables import TableState
from scorer.training.train import new_model, set_base_rates

DATA = planted(users=3, requests_per_user=5, history=40, seed=3)
COLUMNS = Columns.of(DATA, FEATURES)
SIZE = StepSize(tokens=700, requests=20, targets=120)
ALL = np.arange(len(DATA))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> STCA:
    made = new_model(SMALL, FEATURES, DATA.tasks, seed=0)
    with torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made.eval()


def flat_logits(model: STCA, requests: np.ndarray, size: StepSize) -> torch.Tensor:
    lengths = DATA.history_end[requests] - DATA.history_begin[requests]
    batch = collate_flat(COLUMNS, requests, lengths, size, tile=(4, 8))
    targets = int(np.diff(DATA.target_offsets)[requests].sum())
    with torch.no_grad():
        return score_flat(model, flat_inputs(batch, Lookup.of(COLUMNS, CPU, 64)))[:targets]


def test_flat_scores_are_those_of_encode_and_score(model: STCA) -> None:
    flat = flat_logits(model, ALL, SIZE)
    at = 0
    for r in ALL:
        history = DATA.events[DATA.history_begin[r] : DATA.history_end[r]]
        first = int(DATA.event_seq_no[DATA.history_begin[r]])
        head = HistoryHead.of(history, first)
        rows = slice(DATA.target_offsets[r], DATA.target_offsets[r + 1])
        with torch.no_grad():
            kept = model.encode(tensors(featurise_history(history, first, head, FEATURES)))
            features = featurise_targets(
                DATA.target_item_id[rows], DATA.target_group_id[rows], int(DATA.request_time_ms[r]), head, FEATURES
            )
            served = model.score(tensors(features), *kept)
        torch.testing.assert_close(flat[at : at + len(served)], served, rtol=1e-4, atol=1e-4)
        at += len(served)


def test_ragged_equals_one_by_one_and_room_to_spare_changes_nothing(model: STCA) -> None:
    together = flat_logits(model, ALL, SIZE)
    alone = torch.cat([flat_logits(model, ALL[r : r + 1], StepSize(tokens=64, requests=1, targets=8)) for r in ALL])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_plain_torch_in_double_precision() -> None:
    torch.manual_seed(0)
    ragged = Ragged(torch.tensor([0, 3, 3, 8], dtype=torch.int32), torch.tensor([0, 2, 5, 6], dtype=torch.int32))
    q = torch.randn(6, 2, 5, dtype=torch.float64, requires_grad=True)
    kv = torch.randn(8, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    terms = torch.rand(8, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, kv: attend(q, kv, terms, terms, ragged), (q, kv))
    # Nothing to attend to: the null key alone.
    empty = attend(q, kv, terms, terms, ragged)[2:5]
    assert torch.equal(empty[..., 3], torch.full((3, 2), NULL_VALUE, dtype=torch.float64))
    assert torch.count_nonzero(empty) == 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=40), st.integers(0, 99))
def test_every_request_is_in_one_step_and_no_step_is_too_large(sizes: list[tuple[int, int]], seed: int) -> None:
    tokens, targets = (np.array([s[i] for s in sizes], dtype=np.int64) for i in (0, 1))
    size = StepSize(tokens=60, requests=5, targets=12)
    order = np.random.default_rng(seed).permutation(len(sizes))
    steps = plan_steps(tokens, targets, size, order)
    assert sorted(np.concatenate([*steps, np.empty(0, np.int64)]).tolist()) == list(range(len(sizes)))
    for step in steps:
        assert len(step) <= 5
        assert tokens[step].sum() <= 60
        assert targets[step].sum() <= 12


def test_a_request_beyond_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="61 events"):
        plan_steps(np.array([61]), np.array([1]), StepSize(tokens=60, requests=5, targets=12), np.array([0]))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 9))
def test_tiles_cover_every_row_once(counts: list[int], tile: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    covered = np.zeros(offsets[-1], dtype=int)
    for request, first in tiles(offsets, tile, int(offsets[-1])):
        if request >= 0:
            covered[first : min(first + tile, offsets[request + 1])] += 1
    assert (covered == 1).all()


HOW = TrainingSettings(
    epochs=6, learning_rate=3e-3, min_history=8, max_history=40, step_tokens=400, step_requests=24, step_targets=160
)
PLANTED = planted(users=40, seed=0)
PLANTED_COLUMNS = Columns.of(PLANTED, FEATURES)


def trainer(dataset: RankingDataset = PLANTED, settings: TrainingSettings = HOW, *, tables: bool = True) -> FlatTrainer:
    made = new_model(SMALL, FEATURES, dataset.tasks, seed=0)
    set_base_rates(made, dataset)
    return FlatTrainer(
        made,
        PLANTED_COLUMNS if dataset is PLANTED else Columns.of(dataset, FEATURES),
        np.arange(len(dataset)),
        settings,
        device=CPU,
        forward=stca_forward(made),
        tables=stca_tables(made) if tables else (),
    )


@pytest.mark.parametrize("tables", [True, False])
def test_the_planted_rule_is_found(tables: bool) -> None:
    trained, holdout = trainer(tables=tables), planted(users=20, seed=1)
    curve, done = trained.run()
    assert [point.step for point in curve] == list(range(trained.steps))
    assert done.requests == HOW.epochs * len(PLANTED)
    assert done.targets == HOW.epochs * len(PLANTED.labels)
    scores = predict_flat(
        trained.model, Columns.of(holdout, FEATURES), np.arange(len(holdout)), 40, SIZE, device=CPU,
        forward=trained._forward,
    )  # fmt: skip
    assert gauc(holdout.labels[:, 0], scores[:, 0], holdout.target_offsets) > 0.85


def test_two_runs_are_equal_and_so_is_one_that_was_stopped_and_went_on_elsewhere(tmp_path: Path) -> None:
    settings = replace(HOW, epochs=2)
    whole, again, first, second = (trainer(settings=settings) for _ in range(4))
    curve, _ = whole.run()
    assert again.run()[0] == curve
    begun, _ = first.run(until=5)
    torch.save(first.state(), tmp_path / "state.pt")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    rest, _ = second.run()
    assert begun + rest == curve
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    settings = replace(HOW, epochs=2)
    curve, _ = trainer(settings=settings).run()
    checkpoints = Checkpoints(tmp_path, {"seed": 0}, every_steps=4)

    def killed(report: Report) -> None:
        if report.point.step > 8:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        checkpoints.run("model", trainer(settings=settings), killed)
    rest: list[int] = []
    again, _ = checkpoints.run("model", trainer(settings=settings), lambda report: rest.append(report.point.step))
    assert again == curve
    # Steps 0 to 7 are in the checkpoint.
    assert rest[0] == 11
    with pytest.raises(ValueError, match="seed was 0 when this run began and is 1 now"):
        Checkpoints(tmp_path, {"seed": 1})


def test_a_loss_that_is_not_finite_is_told_with_its_step() -> None:
    broken = trainer(settings=replace(HOW, epochs=1))
    with torch.no_grad():
        broken.model.ranking_heads()[0].logits.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        broken.run()


def test_a_state_of_a_longer_run_is_refused() -> None:
    long, short = trainer(settings=replace(HOW, epochs=2)), trainer(settings=replace(HOW, epochs=1))
    long.run(until=short.steps + 1)
    with pytest.raises(ValueError, match=f"this run has {short.steps}"):
        short.restore(long.state())
    with pytest.raises(ValueError, match="already"):
        long.restore(long.state())


def test_a_table_changes_as_row_wise_adagrad_says_and_only_where_it_was_read() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 3))
    before = weight.detach().clone()
    table = TableState.of(weight)
    rows = torch.tensor([[1, 2], [2, 2], [5, 1]])
    squares = torch.zeros(6)
    expected = before.clone()
    for _ in range(2):
        assert torch.equal(table.gather(rows), expected[rows].sum(1))
        gradient = torch.randn(3, 3)
        table.update(rows, gradient, torch.tensor(0.1), decay=0.01)
        per_row = torch.zeros(6, 3).index_add_(0, rows.flatten(), gradient.repeat_interleave(2, 0))
        squares += per_row.square().mean(1)
        for row in (1, 2, 5):
            expected[row] -= 0.1 * (per_row[row] / (squares[row].sqrt() + 1e-8) + 0.01 * expected[row])
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(weight.detach()[[0, 3, 4]], before[[0, 3, 4]])


def test_the_count_of_operations_is_that_of_torch(model: STCA) -> None:
    flops = forward_flops(SMALL, FEATURES, 1)
    lengths = DATA.history_end - DATA.history_begin
    targets = np.diff(DATA.target_offsets)
    # Exactly full, and every request with a history: the null keys alone are not in the count.
    size = StepSize(tokens=int(lengths.sum()), requests=len(DATA), targets=int(targets.sum()))
    batch = collate_flat(COLUMNS, ALL, lengths, size, tile=(4, 8))
    inputs = flat_inputs(batch, Lookup.of(COLUMNS, CPU, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        score_flat(model, inputs)
    nulls = int(targets.sum()) * flops.pair
    pairs = int((targets * lengths).sum())
    assert counted.get_total_flops() == flops.forward(size.tokens, size.targets, pairs) + nulls


def _one_of_two(rank: int, address: str, out: Path) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    dataset = planted(users=12, seed=4 + rank)
    mine = trainer(dataset, replace(HOW, epochs=1))
    curve, _ = mine.run()
    torch.save((mine.model.state_dict(), len(curve)), out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_with_data_of_their_own_end_with_the_same_weights(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (f"file://{tmp_path}/meeting", tmp_path), nprocs=2)
    (one, steps), (other, same_steps) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert steps == same_steps > 2
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
    alone = trainer(planted(users=12, seed=4), replace(HOW, epochs=1))
    alone.run()
    assert not torch.equal(alone.model.state_dict()["layers.0.key.weight"], one["layers.0.key.weight"])


def test_what_the_loader_raises_is_raised_where_it_is_read() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield collate_flat(COLUMNS, ALL[:1], np.zeros(1, np.int64), SIZE, tile=(4, 8))
        raise OSError("disk")

    made = load_ahead(broken(), ahead=2)
    next(made)
    with pytest.raises(OSError, match="disk"):
        next(made)
