"""Every example against what was asked, answered, shown and done (schemas/EXAMPLES.md). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from infra.verify.epochs import User
from infra.verify.feedback import attributed, named_acts
from infra.verify.findings import REVISED_LATE, Findings
from infra.verify.histories import Histories
from infra.verify.impressions import check_letters, read_pages
from infra.verify.records import Batches, Place
from infra.verify.responses import Answer, Served
from infra.verify.revisions import Version, behind_watermark, counting, versions
from infra.verify.rules import Act, ExampleRules
from infra.verify.selection import Selection
from infra.verify.shown import Choice, Page, choose
from infra.verify.stamps import Resolver, check_stamp
from infra.verify.versions import compare
from schemas.topics import EXAMPLES, HEARTBEAT_KEY, RESPONSES
from schemas.v1.ranking_pb2 import RankingResponse
from schemas.v1.training_pb2 import TrainingExample

#: Versions of one request, in the topic's order.
_Found = list[tuple[Place, TrainingExample]]


@dataclass(frozen=True, kw_only=True)
class ExampleCheck:
    """What the examples are checked by.

    A request whose label window the watermark has passed must have its example; what the watermark decides waits in the
    findings for `Findings.settle`.
    """

    rules: ExampleRules
    resolve: Resolver | None = None
    selection: Selection = field(default_factory=Selection)
    #: Of requests before, retention has eaten responses, impressions or feedback; None: all are there.
    since_ms: int | None = None

    def run(
        self,
        histories: Histories,
        partition: int,
        served: Served,
        impressions: Batches,
        examples: Batches,
        findings: Findings,
        letters: Mapping[int, str] | None = None,
        passed: Mapping[bytes, Collection[tuple[bytes, int]]] | None = None,
    ) -> None:
        """Every shown request has one example, of what was shown, labelled by the rule, and its revisions.

        Args:
            histories: with the feedback that names requests.
            letters: offset -> reason of the impressions' dead letters.
            passed: key -> (event_id, published_ms) of what went to the late feedback.
        """
        pages = read_pages(partition, impressions, letters or {}, findings)
        found = self._found(partition, examples, findings)
        for key in dict.fromkeys(chain(pages, found, served.of_user if self.rules.emit_unshown else ())):
            user = histories.users.get(key) or User(int(key) if key.isdigit() else 0, partition)
            self._check_user(
                histories,
                user,
                served.of_user.get(key, {}),
                pages.get(key, {}),
                found.get(key, {}),
                findings,
                (passed or {}).get(key, ()),
            )

    def _found(
        self, partition: int, examples: Batches, findings: Findings
    ) -> dict[bytes, dict[str, list[Place | bytes]]]:
        """key -> request_id -> place, value, place, value .. of its versions."""
        found: dict[bytes, dict[str, list[Place | bytes]]] = defaultdict(lambda: defaultdict(list))
        for batch in examples:
            for offset, _, key, value in batch:
                if key == HEARTBEAT_KEY:
                    continue
                place = Place(EXAMPLES.name, partition, offset)
                example = findings.decode(TrainingExample, value, place)
                if example is not None:
                    of_request = found[key or b""][example.request_id]
                    of_request.append(place)
                    of_request.append(value)
        return found

    def _check_user(
        self,
        histories: Histories,
        user: User,
        answered: Mapping[str, Mapping[str, Answer]],
        shown: Mapping[str, Sequence[Page]],
        found: Mapping[str, Sequence[Place | bytes]],
        findings: Findings,
        passed: Collection[tuple[bytes, int]],
    ) -> None:
        said = {name: _parsed(records) for name, records in found.items()}
        choices: dict[str, Choice] = {}
        superseded: dict[str, int] = {}
        seen: dict[str, Sequence[Page]] = {}
        names = dict.fromkeys(chain(shown, said, answered if self.rules.emit_unshown else ()))
        for name in names:
            responses = self._in_time(answered.get(name, {}))
            pages = shown.get(name, ())
            seen[name] = [page for page in pages if page.published_ms <= self.rules.due_ms(page.request_time_ms)]
            choice, refused = choose(responses, seen[name], emit_unshown=self.rules.emit_unshown)
            if choice is not None:
                choices[name], superseded[name] = choice, len(responses) - 1
            check_letters(user, pages, refused, self.rules, findings, self._takes)
        attribution_ms = self.rules.attribution_window_ms
        loose = attributed(user, seen, choices, attribution_ms) if attribution_ms and choices else {}
        named: dict[str, list[int]] = defaultdict(list)
        for at, each in enumerate(user.named):
            named[each.request_id].append(at)
        for name in names:
            known, request = said.get(name, []), choices.get(name)
            if self._is_gone(known, request):
                findings.repeated["examples_of_inputs_gone"] += len(known)
                for place, example in known:
                    findings.checked["examples"] += 1
                    check_stamp(histories, example.stamp, example.user_id, place, findings, self.resolve)
                continue
            if request is None:
                self._check_unknown(histories, known, findings)
                continue
            of_request = [*named_acts((user.named[at] for at in named[name]), name, request), *loose.get(name, ())]
            acts = [act for act in of_request if (act.event_id, act.published_ms) not in passed]
            pages = shown.get(name, ())
            self._check_request(histories, user, name, request, superseded[name], acts, known, findings, pages)

    def _in_time(self, answers: Mapping[str, Answer]) -> dict[str, RankingResponse]:
        """response_id -> the responses that count."""
        responses = {}
        for response_id, (published_ms, value) in answers.items():
            response = RankingResponse.FromString(value)
            if published_ms <= self.rules.due_ms(response.request_time_ms):
                responses[response_id] = response
        return responses

    def _is_gone(self, known: _Found, request: Choice | None) -> bool:
        if self.since_ms is None:
            return False
        times = [example.request_time_ms for _, example in known]
        if request is not None:
            times.append(request.response.request_time_ms)
        return bool(times) and min(times) < self.since_ms

    def _takes(self, request_time_ms: int) -> bool:
        return self.selection.takes_time(request_time_ms) and (
            self.since_ms is None or request_time_ms >= self.since_ms
        )

    def _check_unknown(self, histories: Histories, known: _Found, findings: Findings) -> None:
        for place, example in known:
            if self._in_range(place, example):
                findings.checked["examples"] += 1
                findings.unmatched["examples"] += 1
                detail = f"{example.request_id}: no such request was answered and shown"
                findings.expect(False, "example_of_no_request", place, example.user_id, detail)
                check_stamp(histories, example.stamp, example.user_id, place, findings, self.resolve)

    def _in_range(self, place: Place, example: TrainingExample) -> bool:
        return self.selection.takes_time(example.request_time_ms) and self.selection.takes_offset(
            EXAMPLES, place.partition, place.offset
        )

    def _check_request(
        self,
        histories: Histories,
        user: User,
        name: str,
        request: Choice,
        superseded: int,
        acts: Sequence[Act],
        known: _Found,
        findings: Findings,
        pages: Sequence[Page],
    ) -> None:
        response = request.response
        said = {example.label_version: list(example.caused_by) for _, example in known}
        counted = counting(request.items, acts)
        came_late = behind_watermark(counted, said, self.rules.due_ms(response.request_time_ms))
        findings.repeated[REVISED_LATE] += len(came_late)
        wanted = versions(self.rules, request.items, counted, response.request_time_ms, said, came_late)
        frame = request.example(name, user.user_id)
        frame.superseded_responses = superseded
        newest = 0
        for place, example in known:
            if not self._in_range(place, example):
                newest = max(newest, example.label_version)
                continue
            findings.checked["examples"] += 1
            before, version = findings.total, example.label_version
            what = f"{name} label_version {version}"
            findings.expect(version > newest, "example_doubled", place, user.user_id, what)
            findings.expect(
                version <= newest + 1,
                "example_gap",
                place,
                user.user_id,
                field="label_version",
                found=version,
                wanted=newest + 1,
            )
            newest = max(newest, version)
            if findings.expect(
                1 <= version <= len(wanted),
                "revision_of_nothing",
                place,
                user.user_id,
                f"{what}: no feedback changes it",
            ):
                compare(example, frame, version, wanted[version - 1], self.rules, place, findings)
            check_stamp(histories, example.stamp, user.user_id, place, findings, self.resolve)
            findings.unmatched["examples"] += findings.total > before
        self._check_missing(name, user, response.request_time_ms, newest, wanted, known, pages, findings)

    def _check_missing(
        self,
        name: str,
        user: User,
        request_time_ms: int,
        newest: int,
        wanted: Sequence[Version],
        known: _Found,
        pages: Sequence[Page],
        findings: Findings,
    ) -> None:
        if newest >= len(wanted) or not self._takes(request_time_ms):
            return
        place = known[0][0] if known else pages[0].place if pages else None
        if any(topic in (EXAMPLES.name, RESPONSES.name) for topic, _ in self.selection.offsets):
            return
        where = str(place) if place is not None else f"request {name}"
        missing = wanted[newest]
        if newest == 0:
            detail = f"{name}: its label window has closed, and there is no example"
            findings.expect(False, "example_missing", where, user.user_id, detail, until_ms=missing.due_ms)
        else:
            causes = " ".join(each.hex() for each in missing.caused_by)
            detail = f"{name}: label_version {newest + 1} is missing, feedback {causes} changes labels"
            findings.expect(False, "revision_missing", where, user.user_id, detail, until_ms=missing.due_ms)


def _parsed(records: Sequence[Place | bytes]) -> _Found:
    def pairs() -> Iterator[tuple[Place, TrainingExample]]:
        for at in range(0, len(records), 2):
            place, value = records[at], records[at + 1]
            assert isinstance(place, Place)
            assert isinstance(value, bytes)
            yield place, TrainingExample.FromString(value)

    return list(pairs())
