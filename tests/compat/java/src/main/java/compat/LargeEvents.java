package compat;

import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.impl.ByteBufferSerializer;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Random;

/** Events beyond the 8 MiB that fit into one append, between small ones of the same key. */
final class LargeEvents implements Program {
    private static final int MIB = 1 << 20;

    @Override
    public void run(Cluster cluster) throws Exception {
        Stream stream = cluster.stream("large", 1);
        EventStreamWriter<ByteBuffer> writer = cluster.open(cluster.events().createEventWriter(
                "large", new ByteBufferSerializer(),
                EventWriterConfig.builder().enableLargeEvents(true).build()));
        ReaderGroup group = cluster.group("group", stream);
        List<byte[]> events = List.of(
                bytes(100, 1), bytes(8 * MIB - 8, 2), bytes(8 * MIB + 1, 3), bytes(1000, 4),
                bytes(20 * MIB, 5), bytes(1, 6));
        for (byte[] event : events) {
            writer.writeEvent("key", ByteBuffer.wrap(event));
        }
        writer.flush();

        EventStreamReader<ByteBuffer> reader = cluster.open(cluster.events().createReader(
                "reader", group.getGroupName(), new ByteBufferSerializer(), Cluster.READER));
        long deadline = System.nanoTime() + Cluster.PATIENCE.toNanos();
        for (byte[] event : events) {
            EventRead<ByteBuffer> read = reader.readNextEvent(2000);
            while (read.getEvent() == null) {
                Check.that(System.nanoTime() < deadline, "an event of " + event.length + " bytes");
                read = reader.readNextEvent(2000);
            }
            Check.equal(event.length, read.getEvent().remaining(), "length of an event");
            Check.that(ByteBuffer.wrap(event).equals(read.getEvent()),
                    "the bytes of an event of " + event.length);
        }
    }

    private static byte[] bytes(int length, long seed) {
        byte[] bytes = new byte[length];
        new Random(seed).nextBytes(bytes);
        return bytes;
    }
}
