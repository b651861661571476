"""One batch through the model: histories read, each user encoded once, every request scored. No Kafka, no clock of its
own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.v1.ranking_pb2 import RankingResponse
from scorer.sequences.reads import ServedHistory
from scorer.serving.desk import Waiting
from scorer.serving.engine import EncodedHistory
from scorer.serving.kept import Encoding, KeptEncodings
from scorer.serving.models import Model
from scorer.serving.requests import Unanswerable, check_tasks
from scorer.serving.responses import scored_response

#: (user_id, most events) -> the newest of them.
ReadHistory = Callable[[int, int], ServedHistory]


@dataclass(frozen=True, slots=True)
class Scored:
    """One request's outcome, and where its time went, s."""

    waiting: Waiting
    #: The response, or why there is none.
    outcome: RankingResponse | Unanswerable
    events: int = 0
    #: How its user was encoded; None: already, for another request of the batch.
    encoding: Encoding | None = None
    read_s: float = 0.0
    encode_s: float = 0.0
    score_s: float = 0.0


def score_batch(
    batch: Sequence[Waiting],
    model: Model,
    read_history: ReadHistory,
    kept: KeptEncodings,
    clock: Callable[[], float],
) -> list[Scored]:
    """Score the requests of a batch, in order.

    The store does not move during a batch: requests of one user see one history, and share its encoding.
    """
    users: dict[int, tuple[ServedHistory, EncodedHistory]] = {}
    scored: list[Scored] = []
    for waiting in batch:
        request, message = waiting.request, waiting.request.message
        try:
            columns = check_tasks(message, model.tasks)
        except Unanswerable as unanswerable:
            scored.append(Scored(waiting, unanswerable))
            continue
        started = read = encoded_at = clock()
        encoding: Encoding | None = None
        if message.user_id not in users:
            served = read_history(message.user_id, model.max_history)
            read = clock()
            encoded, encoding = kept.encode(message.user_id, served, model)
            users[message.user_id] = served, encoded
            encoded_at = clock()
        served, encoded = users[message.user_id]
        probabilities = model.score(encoded, request.item_ids, request.group_ids, message.request_time_ms)
        finished = clock()
        behind = served.seq_no < message.min_seq_no
        response = scored_response(request, served, probabilities, model.tasks, columns, model.version, behind=behind)
        scored.append(
            Scored(
                waiting,
                response,
                events=len(served.rows),
                encoding=encoding,
                read_s=read - started,
                encode_s=encoded_at - read,
                score_s=finished - encoded_at,
            )
        )
    return scored
