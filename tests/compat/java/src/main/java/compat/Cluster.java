package compat;

import io.pravega.client.BatchClientFactory;
import io.pravega.client.ByteStreamClientFactory;
import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.KeyValueTableFactory;
import io.pravega.client.SynchronizerClientFactory;
import io.pravega.client.admin.KeyValueTableManager;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.control.impl.Controller;
import io.pravega.client.control.impl.ControllerImpl;
import io.pravega.client.control.impl.ControllerImplConfig;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ReaderGroupConfig.ReaderGroupConfigBuilder;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.impl.JavaSerializer;
import io.pravega.client.stream.impl.UTF8StringSerializer;
import java.net.URI;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** A running cluster as one program sees it: a scope of its own, and clients that end with it. */
final class Cluster implements AutoCloseable {
    static final UTF8StringSerializer TEXT = new UTF8StringSerializer();
    static final ReaderConfig READER = ReaderConfig.builder().build();
    static final Duration PATIENCE = Duration.ofSeconds(30);

    /** Segments change hands, and successors are read, when a checkpoint passes. */
    private static final long CHECKPOINT_EVERY_MS = 500;
    private static final long READ_WAIT_MS = 500;
    private static final long GROUP_REFRESH_MS = 500;
    private static final long CALL_LIMIT_S = 30;

    final ClientConfig config;
    final URI rest;
    final String scope;
    final StreamManager streams;
    private final Deque<AutoCloseable> opened = new ArrayDeque<>();

    Cluster(URI controller, URI rest, String scope) {
        this.config = ClientConfig.builder().controllerURI(controller).build();
        this.rest = rest;
        this.scope = scope;
        this.streams = open(StreamManager.create(config));
        streams.createScope(scope);
    }

    /** Closed with the cluster, in the opposite order of opening. */
    <T extends AutoCloseable> T open(T resource) {
        opened.push(resource);
        return resource;
    }

    @Override
    public void close() throws Exception {
        while (!opened.isEmpty()) {
            opened.pop().close();
        }
    }

    // --- streams -----------------------------------------------------------------------------

    Stream stream(String name, int segments) {
        return stream(name, StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(segments)).build());
    }

    Stream stream(String name, StreamConfiguration configuration) {
        Check.that(streams.createStream(scope, name, configuration), "the stream is new");
        return Stream.of(scope, name);
    }

    /** With the whole configuration: the client's StreamManager leaves parts of it out. */
    Stream wholeStream(String name, StreamConfiguration configuration) throws Exception {
        Check.that(within(controller().createStream(scope, name, configuration)), "it is new");
        return Stream.of(scope, name);
    }

    StreamCut head(Stream stream) throws Exception {
        return within(streams.fetchStreamInfo(stream.getScope(), stream.getStreamName()))
                .getHeadStreamCut();
    }

    StreamCut tail(Stream stream) throws Exception {
        return within(streams.fetchStreamInfo(stream.getScope(), stream.getStreamName()))
                .getTailStreamCut();
    }

    Controller controller() {
        ScheduledExecutorService executor = executor();
        return open(new ControllerImpl(
                ControllerImplConfig.builder().clientConfig(config).build(), executor));
    }

    /** Scales and waits until it is done. New segments are numbered in the order of their ranges. */
    void scale(Controller controller, Stream stream, List<Long> seal, Map<Double, Double> ranges)
            throws Exception {
        Check.that(within(controller.scaleStream(stream, seal, new TreeMap<>(ranges), executor())
                .getFuture()), "the stream scales");
    }

    ScheduledExecutorService executor() {
        ScheduledExecutorService executor = Executors.newScheduledThreadPool(2);
        open((AutoCloseable) executor::shutdownNow);
        return executor;
    }

    // --- clients -----------------------------------------------------------------------------

    EventStreamClientFactory events() {
        return open(EventStreamClientFactory.withScope(scope, config));
    }

    ReaderGroupManager groups() {
        return open(ReaderGroupManager.withScope(scope, config));
    }

    SynchronizerClientFactory synchronizers() {
        return open(SynchronizerClientFactory.withScope(scope, config));
    }

    ByteStreamClientFactory bytes() {
        return open(ByteStreamClientFactory.withScope(scope, config));
    }

    BatchClientFactory batch() {
        return open(BatchClientFactory.withScope(scope, config));
    }

    KeyValueTableFactory tables() {
        return open(KeyValueTableFactory.withScope(scope, config));
    }

    KeyValueTableManager tableManager() {
        return open(KeyValueTableManager.create(config));
    }

    <T extends java.io.Serializable> JavaSerializer<T> objects() {
        return new JavaSerializer<>();
    }

    EventStreamWriter<String> writer(Stream stream) {
        return open(events().createEventWriter(
                stream.getStreamName(), TEXT, EventWriterConfig.builder().build()));
    }

    /** A group's configuration with short intervals: the defaults of the client are 30 s and 3 s. */
    static ReaderGroupConfigBuilder quickGroup() {
        return ReaderGroupConfig.builder()
                .automaticCheckpointIntervalMillis(CHECKPOINT_EVERY_MS)
                .groupRefreshTimeMillis(GROUP_REFRESH_MS);
    }

    ReaderGroup group(String name, ReaderGroupConfig configuration) {
        ReaderGroupManager groups = groups();
        Check.that(groups.createReaderGroup(name, configuration), "the group is new");
        return open(groups.getReaderGroup(name));
    }

    ReaderGroup group(String name, Stream stream) {
        return group(name, quickGroup().stream(stream).build());
    }

    EventStreamReader<String> reader(String name, ReaderGroup group) {
        return open(events().createReader(name, group.getGroupName(), TEXT, READER));
    }

    // --- reading -----------------------------------------------------------------------------

    /** The next `count` events, checkpoints left out. */
    static List<String> read(EventStreamReader<String> reader, int count) {
        List<String> events = new ArrayList<>();
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (events.size() < count) {
            EventRead<String> next = reader.readNextEvent(READ_WAIT_MS);
            if (next.getEvent() != null) {
                events.add(next.getEvent());
            }
            Check.that(System.nanoTime() < deadline,
                    "only " + events.size() + " of " + count + " events came: " + shortened(events));
        }
        return events;
    }

    /** What is there until nothing came for the given time. */
    static List<String> readUntilQuiet(EventStreamReader<String> reader, Duration quiet) {
        List<String> events = new ArrayList<>();
        long last = System.nanoTime();
        while (System.nanoTime() - last < quiet.toNanos()) {
            EventRead<String> next = reader.readNextEvent(READ_WAIT_MS);
            if (next.getEvent() != null) {
                events.add(next.getEvent());
                last = System.nanoTime();
            }
        }
        return events;
    }

    static <T> T within(java.util.concurrent.Future<T> future) throws Exception {
        return future.get(CALL_LIMIT_S, TimeUnit.SECONDS);
    }

    private static String shortened(List<String> events) {
        return events.size() <= 10 ? events.toString() : events.subList(0, 10) + "…";
    }
}
