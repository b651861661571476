// The rows of a batch, one by one: see streaming/flink/batches.py.

import java.nio.ByteBuffer;
import java.util.Arrays;

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.runtime.operators.TableStreamOperator;
import org.apache.flink.types.Row;

public class Unbatch extends TableStreamOperator implements OneInputStreamOperator {

    private static final int HEAD_BYTES = 8;

    public Unbatch(Object[] references, StreamTask task, StreamConfig config, Output output,
            ProcessingTimeService processingTimeService) throws Exception {
        setup(task, config, output);
        setProcessingTimeService(processingTimeService);
    }

    public void processElement(StreamRecord element) {
        byte[] batch = (byte[]) element.getValue();
        ByteBuffer head = ByteBuffer.wrap(batch);
        int at = 0;
        while (at < batch.length) {
            int keyAt = at + HEAD_BYTES;
            int valueAt = keyAt + head.getInt(at);
            int end = valueAt + head.getInt(at + 4);
            Row row = Row.of(new Object[] {
                Arrays.copyOfRange(batch, keyAt, valueAt), Arrays.copyOfRange(batch, valueAt, end)
            });
            output.collect(element.replace(row));
            at = end;
        }
    }
}
