package compat;

import io.pravega.client.stream.NoSuchScopeException;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Set;

/** Scopes, streams and tags as they are listed; configurations as they come back. */
final class Listing implements Program {
    @Override
    public void run(Cluster cluster) throws Exception {
        Check.that(!cluster.streams.createScope(cluster.scope), "the scope is there");
        Check.that(cluster.streams.checkScopeExists(cluster.scope), "the scope is there");
        Check.that(!cluster.streams.checkScopeExists(cluster.scope + "no"), "no such scope");
        List<String> scopes = new ArrayList<>();
        cluster.streams.listScopes().forEachRemaining(scopes::add);
        Check.that(scopes.contains(cluster.scope), "the scope is listed");

        StreamConfiguration full = StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.byDataRate(100, 2, 3))
                .retentionPolicy(RetentionPolicy.byTime(Duration.ofHours(1), Duration.ofHours(9)))
                .timestampAggregationTimeout(12_345)
                .rolloverSizeBytes(1 << 20)
                .tags(List.of("red", "blue")).build();
        cluster.wholeStream("full", full);
        cluster.stream("red", StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.byEventRate(10, 2, 1)).tag("red").build());
        cluster.stream("plain", 1);
        Check.that(!cluster.streams.createStream(cluster.scope, "plain", full), "it is there");

        Check.equal(Set.of("full", "red", "plain"), own(cluster.streams.listStreams(cluster.scope)),
                "streams");
        Check.equal(Set.of("full", "red"), own(cluster.streams.listStreams(cluster.scope, "red")),
                "streams with a tag");
        Check.equal(Set.of("full"), own(cluster.streams.listStreams(cluster.scope, "blue")),
                "streams with another tag");
        Check.equal(Set.of("red", "blue"),
                Set.copyOf(cluster.streams.getStreamTags(cluster.scope, "full")), "tags");
        Check.equal(full, Cluster.within(cluster.streams.fetchStreamInfo(cluster.scope, "full"))
                .getStreamConfiguration(), "the whole configuration");

        StreamConfiguration changed = StreamConfiguration.builder()
                .scalingPolicy(ScalingPolicy.fixed(5)).tag("green").build();
        Check.that(cluster.streams.updateStream(cluster.scope, "full", changed), "updated");
        Check.equal(changed, Cluster.within(cluster.streams.fetchStreamInfo(cluster.scope, "full"))
                .getStreamConfiguration(), "the new configuration");
        Check.equal(Set.of("red"), own(cluster.streams.listStreams(cluster.scope, "red")),
                "the tag is gone");
        Check.equal(5, cluster.controller().getCurrentSegments(cluster.scope, "full").get()
                .getSegments().size(), "a higher minimum scales at once");

        Check.fails(NoSuchScopeException.class, "listing a missing scope",
                () -> cluster.streams.listStreams(cluster.scope + "no").hasNext());
        Check.fails(IllegalArgumentException.class, "a stream of a missing scope",
                () -> cluster.streams.createStream(cluster.scope + "no", "stream", changed));
        Check.fails(IllegalArgumentException.class, "a bad name",
                () -> cluster.streams.createScope("not/good"));
    }

    /** Streams that users made: a listing has the marks of watermarks, too. */
    private static Set<String> own(Iterator<Stream> streams) {
        Set<String> names = new HashSet<>();
        streams.forEachRemaining(stream -> {
            if (!stream.getStreamName().startsWith("_")) {
                names.add(stream.getStreamName());
            }
        });
        return names;
    }
}
