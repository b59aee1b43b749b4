package compat;

import io.pravega.client.byteStream.ByteStreamReader;
import io.pravega.client.byteStream.ByteStreamWriter;
import java.io.IOException;
import java.util.Arrays;
import java.util.Random;

/** A stream of bytes: write, seek, truncate, seal. */
final class ByteStream implements Program {
    private static final int LENGTH = 5_000_000;
    private static final int CUT = 1_000_000;

    @Override
    public void run(Cluster cluster) throws Exception {
        cluster.stream("bytes", 1);
        byte[] written = new byte[LENGTH];
        new Random(1).nextBytes(written);
        ByteStreamWriter writer = cluster.open(cluster.bytes().createByteStreamWriter("bytes"));
        ByteStreamReader reader = cluster.open(cluster.bytes().createByteStreamReader("bytes"));
        writer.write(written, 0, LENGTH / 2);
        writer.write(written, LENGTH / 2, LENGTH - LENGTH / 2);
        writer.flush();
        Check.equal((long) LENGTH, writer.fetchTailOffset(), "tail");
        Check.equal(0L, reader.fetchHeadOffset(), "head");
        Check.that(Arrays.equals(written, read(reader, LENGTH)), "the bytes come back");

        reader.seekToOffset(LENGTH - 10);
        Check.equal((long) LENGTH - 10, reader.getOffset(), "place after the seek");
        Check.that(Arrays.equals(Arrays.copyOfRange(written, LENGTH - 10, LENGTH), read(reader, 10)),
                "the last ten bytes");

        writer.truncateDataBefore(CUT);
        Check.equal((long) CUT, writer.fetchHeadOffset(), "head after the truncation");
        reader.seekToOffset(CUT);
        Check.that(Arrays.equals(Arrays.copyOfRange(written, CUT, CUT + 100), read(reader, 100)),
                "bytes at the new head");
        ByteStreamReader tooEarly = cluster.open(cluster.bytes().createByteStreamReader("bytes"));
        tooEarly.seekToOffset(0);
        Check.fails(IOException.class, "reading what is gone", () -> tooEarly.read(new byte[10]));

        writer.write("end".getBytes());
        writer.closeAndSeal();
        reader.seekToOffset(LENGTH);
        Check.equal("end", new String(read(reader, 3)), "the last bytes");
        Check.equal(-1, reader.read(), "the end of a sealed stream");
        Check.equal(-1, reader.read(new byte[5]), "the end of a sealed stream");
    }

    private static byte[] read(ByteStreamReader reader, int length) throws IOException {
        byte[] bytes = new byte[length];
        int filled = 0;
        while (filled < length) {
            int count = reader.read(bytes, filled, length - filled);
            Check.that(count > 0, "the stream goes on after " + filled + " bytes");
            filled += count;
        }
        return bytes;
    }
}
