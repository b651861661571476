"""Everything here leans on PyFlink's internals (2.3.0): keying in SQL, side outputs without a detour, uids of a Table
source, operators from source text, other keys under one element, rows that cost little. One file, so that a new version
of PyFlink is checked in one place: `tests/streaming/test_flink_graph.py` and `test_sequence_job.py` fail clearly when
one of them no longer holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pyflink.common.typeinfo import TypeInformation, Types
from pyflink.datastream import DataStream, KeyedStream, OutputTag, RuntimeContext
from pyflink.java_gateway import get_gateway


def keyed_by_first_field(stream: DataStream, record_type: TypeInformation) -> KeyedStream:
    """Keys a stream of ROW(key BIGINT, record, time) by its key; the process function is handed the record.

    `DataStream.key_by` takes a Python function and crosses into Python once more for every record. The operators that
    follow expect what that crossing makes: a row of key and record, of which the selector takes the first field. The
    time is there because the stream's timestamps are the records' own only if their column is selected.

    Args:
        record_type: the record's type, freshly built: a type that was used cannot be pickled with a function.
    """
    j_stream = stream._j_data_stream
    j_stream.getTransformation().setOutputType(
        Types.ROW([Types.LONG(), record_type, Types.INSTANT()]).get_java_type_info()
    )
    selector = get_gateway().jvm.KeyByKeySelector()
    j_keyed = j_stream.keyBy(selector, Types.ROW([Types.LONG()]).get_java_type_info())
    return KeyedStream(j_keyed, record_type, stream)


def generated_operator(
    stream: DataStream, class_name: str, source: str, references: Sequence[int], output_type: TypeInformation, uid: str
) -> DataStream:
    """`stream` through an operator given as Java source text.

    Flink's SQL planner makes its operators so: the text travels with the graph and is compiled where it runs, by Flink
    itself. The class's constructor takes what theirs do.

    Args:
        class_name: in no package; the operator's name, too.
        references: what the constructor finds in its `Object[] references`.
        output_type: freshly built.
    """
    gateway = get_gateway()
    runtime = gateway.jvm.org.apache.flink.table.runtime
    j_references = gateway.new_array(gateway.jvm.Object, len(references))
    for place, reference in enumerate(references):
        j_references[place] = reference
    generated = runtime.generated.GeneratedOperator(
        class_name, source, j_references, gateway.jvm.org.apache.flink.configuration.Configuration()
    )
    j_input = stream._j_data_stream
    environment = j_input.getExecutionEnvironment()
    transformation = gateway.jvm.org.apache.flink.streaming.api.transformations.OneInputTransformation(
        j_input.getTransformation(),
        class_name,
        runtime.operators.CodeGenOperatorFactory(generated),
        output_type.get_java_type_info(),
        environment.getParallelism(),
        False,
    )
    transformation.setUid(uid)
    environment.addOperator(transformation)
    return DataStream(gateway.jvm.org.apache.flink.streaming.api.datastream.DataStream(environment, transformation))


def keyed_where_it_is(stream: DataStream, record_type: TypeInformation) -> KeyedStream:
    """A stream of ROW(key BIGINT, record) keyed by its key, which must be one of the subtask where the row is.

    Args:
        record_type: the record's type, freshly built.
    """
    jvm = get_gateway().jvm
    j_keyed = jvm.org.apache.flink.streaming.api.datastream.DataStreamUtils.reinterpretAsKeyedStream(
        stream._j_data_stream, jvm.KeyByKeySelector(), Types.ROW([Types.LONG()]).get_java_type_info()
    )
    return KeyedStream(j_keyed, record_type, stream)


class KeySwitch:
    """Sets the key to which states and timers of a process function belong, in thread mode.

    An element brings its own key; this is for the others of a batch. They must be keys of the same subtask.

    Args:
        remembered: keys of which Flink's own form is kept; to make one costs more than to set it.
    """

    def __init__(self, context: RuntimeContext, remembered: int) -> None:
        from pemja import findClass  # only where Java runs Python

        self._row_class: Any = findClass("org.apache.flink.types.Row")
        self._assignment: Any = findClass("org.apache.flink.runtime.state.KeyGroupRangeAssignment")
        self._backend: Any = context.get_keyed_state_backend()._keyed_state_backend
        self._row_of = lru_cache(maxsize=remembered)(self._row)
        self._current: int | None = None

    def enter(self, key: int) -> None:
        """From now on states and timers are this key's."""
        if self._current != key:
            self._backend.setCurrentKey(self._row_of(key))
            self._current = key

    def key_was_set(self) -> None:
        """Flink has set the key of an element or of a timer: to be called whenever it calls the function."""
        self._current = None

    def key_groups(self) -> range:
        """Those of the subtask."""
        own = self._backend.getKeyGroupRange()
        return range(own.getStartKeyGroup(), own.getEndKeyGroup() + 1)

    def key_group(self, key: int) -> int:
        """The one that the key belongs to, here or in another subtask."""
        return int(self._assignment.assignToKeyGroup(self._row_of(key), self._backend.getNumberOfKeyGroups()))

    def _row(self, key: int) -> Any:
        row = self._row_class(1)
        row.setField(0, key)
        return row


def side_output(stream: DataStream, tag: OutputTag) -> DataStream:
    """What `stream` emits under `tag`. `DataStream.get_side_output` adds a Python map that only passes records on."""
    return DataStream(stream._j_data_stream.getSideOutput(tag.get_java_output_tag()))


def set_source_uids(stream: DataStream, uid_of_table: Mapping[str, str]) -> None:
    """Gives uids to all operators that the planner made for `stream`.

    The planner names none, and state that is found by a generated id is lost with the next change of the graph. Only
    the sources have state: theirs follow from their tables. What lies between is numbered.

    Raises:
        RuntimeError: the plan's sources are not one for each of the tables.
    """
    missing = dict(uid_of_table)
    # The set of predecessors has no order of its own; ids count up as the planner translates the plan.
    operators: list[Any] = sorted(
        stream._j_data_stream.getTransformation().getTransitivePredecessors(), key=lambda one: int(one.getId())
    )
    for number, operator in enumerate(operators):
        if operator.getClass().getSimpleName() != "SourceTransformation":
            operator.setUid(f"records-{number}")
            continue
        table = operator.getName().rpartition(".")[2]
        if table not in missing:
            raise RuntimeError(f"source {operator.getName()} is none of {', '.join(missing)}: check PyFlink's version")
        operator.setUid(missing.pop(table))
    if missing:
        raise RuntimeError(f"the plan has no source for {', '.join(missing)}: check PyFlink's version")


class _Insert:
    """What a row's kind is asked for."""

    value = 0


class OutputRow:
    """A row of two fields on its way to Java, for thread mode.

    `pyflink.common.Row` is four times as slow to make, which is a tenth of an event's cost; the converter to Java asks
    for no more than this.
    """

    __slots__ = ("_values",)
    _insert = _Insert()

    def __init__(self, key: bytes, value: bytes) -> None:
        self._values = (key, value)

    def get_row_kind(self) -> _Insert:
        """INSERT."""
        return self._insert
