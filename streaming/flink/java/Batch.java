// Records of one subtask, many in one byte array: see streaming/flink/batches.py, which has the layout and the reasons.

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;

import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.runtime.operators.TableStreamOperator;
import org.apache.flink.types.Row;

public class Batch extends TableStreamOperator
        implements OneInputStreamOperator, ProcessingTimeService.ProcessingTimeCallback {

    private static final int HEAD_BYTES = 32;

    private final int maxRecords;
    private final int maxBytes;
    private final long maxDelayMs;
    private final boolean tellsWatermarks;

    private byte[] buffer;
    private ByteBuffer head;
    private int size;
    private int records;
    private Object firstKey;
    // Of a batch that was sent; null: none was, so the state is as it was saved.
    private Object lastKey;
    private long firstTimestamp;
    private long dueMs;
    private boolean timerIsSet;
    // Flink begins at none after a restore, and would take what is late for early until the first one comes.
    private long watermark = Long.MIN_VALUE;
    private boolean watermarkIsTold = true;
    private ListState watermarkState;

    public Batch(Object[] references, StreamTask task, StreamConfig config, Output output,
            ProcessingTimeService processingTimeService) throws Exception {
        maxRecords = ((Integer) references[0]).intValue();
        maxBytes = ((Integer) references[1]).intValue();
        maxDelayMs = ((Integer) references[2]).longValue();
        tellsWatermarks = ((Integer) references[3]).intValue() != 0;
        grow(maxBytes);
        setup(task, config, output);
        setProcessingTimeService(processingTimeService);
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        if (!tellsWatermarks) {
            return;
        }
        // All subtasks had the same: a barrier is behind the same watermarks on its way to each of them.
        watermarkState = context.getOperatorStateStore().getUnionListState(
                new ListStateDescriptor("watermark", LongSerializer.INSTANCE));
        Iterator saved = ((Iterable) watermarkState.get()).iterator();
        while (saved.hasNext()) {
            watermark = Math.max(watermark, ((Long) saved.next()).longValue());
        }
        watermarkIsTold = watermark == Long.MIN_VALUE;
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        if (tellsWatermarks) {
            watermarkState.update(Collections.singletonList(Long.valueOf(watermark)));
        }
    }

    public void processElement(StreamRecord element) throws Exception {
        Row row = (Row) element.getValue();
        Row record = (Row) row.getField(1);
        byte[] key = (byte[]) record.getField(1);
        byte[] value = (byte[]) record.getField(2);
        int keyBytes = key == null ? 0 : key.length;
        int valueBytes = value == null ? 0 : value.length;
        int end = size + HEAD_BYTES + keyBytes + valueBytes;
        if (records > 0 && end > maxBytes) {
            flush();
            end = HEAD_BYTES + keyBytes + valueBytes;
        }
        if (end > buffer.length) {
            grow(end);
        }
        if (records == 0) {
            begin(row.getField(0), element.getTimestamp());
        }
        head.putInt(size, ((Integer) record.getField(0)).intValue());
        head.putInt(size + 4, key == null ? -1 : keyBytes);
        head.putInt(size + 8, value == null ? -1 : valueBytes);
        head.putInt(size + 12, ((Integer) record.getField(3)).intValue());
        head.putLong(size + 16, ((Long) record.getField(4)).longValue());
        head.putLong(size + 24, element.getTimestamp());
        if (key != null) {
            System.arraycopy(key, 0, buffer, size + HEAD_BYTES, keyBytes);
        }
        if (value != null) {
            System.arraycopy(value, 0, buffer, size + HEAD_BYTES + keyBytes, valueBytes);
        }
        size = end;
        records++;
        if (records >= maxRecords) {
            flush();
        }
    }

    private void begin(Object key, long timestamp) {
        firstKey = key;
        firstTimestamp = timestamp;
        dueMs = getProcessingTimeService().getCurrentProcessingTime() + maxDelayMs;
        if (!timerIsSet) {
            getProcessingTimeService().registerTimer(dueMs, this);
            timerIsSet = true;
        }
    }

    public void onProcessingTime(long time) throws Exception {
        timerIsSet = false;
        if (records == 0) {
            return;
        }
        if (time >= dueMs) {
            flush();
        } else {
            // The batch that the timer was set for was full before; this one is younger.
            getProcessingTimeService().registerTimer(dueMs, this);
            timerIsSet = true;
        }
    }

    // Nothing may wait here when a checkpoint is taken: what came before the barrier must be in the state behind it. The
    // empty batch says that the state is about to be saved.
    public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
        flush();
        if (lastKey != null) {
            output.collect(new StreamRecord(Row.of(new Object[] {lastKey, new byte[0]})));
        }
        super.prepareSnapshotPreBarrier(checkpointId);
    }

    // A record never comes after a watermark that it came before. Eight bytes tell the function that the watermark has
    // passed and Flink's timers have rung; before the first batch there is nothing that it could be told for.
    public void processWatermark(Watermark mark) throws Exception {
        flush();
        super.processWatermark(mark);
        watermark = Math.max(watermark, mark.getTimestamp());
        if (tellsWatermarks && lastKey != null) {
            tell(lastKey);
        }
    }

    private void tell(Object key) {
        byte[] time = ByteBuffer.allocate(8).putLong(watermark).array();
        output.collect(new StreamRecord(Row.of(new Object[] {key, time}), firstTimestamp));
        watermarkIsTold = true;
    }

    public void finish() throws Exception {
        flush();
        super.finish();
    }

    private void flush() {
        if (records == 0) {
            return;
        }
        lastKey = firstKey;
        if (!watermarkIsTold) {
            tell(lastKey);
        }
        Row batch = Row.of(new Object[] {firstKey, Arrays.copyOf(buffer, size)});
        size = 0;
        records = 0;
        output.collect(new StreamRecord(batch, firstTimestamp));
    }

    private void grow(int bytes) {
        buffer = buffer == null ? new byte[bytes] : Arrays.copyOf(buffer, bytes);
        head = ByteBuffer.wrap(buffer);
    }
}
