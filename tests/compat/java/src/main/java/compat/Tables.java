package compat;

import static compat.Cluster.within;

import io.pravega.client.admin.KeyValueTableManager;
import io.pravega.client.tables.BadKeyVersionException;
import io.pravega.client.tables.ConditionalTableUpdateException;
import io.pravega.client.tables.Insert;
import io.pravega.client.tables.IteratorItem;
import io.pravega.client.tables.KeyValueTable;
import io.pravega.client.tables.KeyValueTableClientConfiguration;
import io.pravega.client.tables.KeyValueTableConfiguration;
import io.pravega.client.tables.KeyValueTableIterator;
import io.pravega.client.tables.Put;
import io.pravega.client.tables.Remove;
import io.pravega.client.tables.TableEntry;
import io.pravega.client.tables.TableKey;
import io.pravega.client.tables.TableModification;
import io.pravega.client.tables.Version;
import io.pravega.common.util.AsyncIterator;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.TreeSet;

/** A key-value table: conditional updates, several at once, iteration by key, prefix and range. */
final class Tables implements Program {
    private static final int PRIMARY_LENGTH = 4;
    private static final int SECONDARY_LENGTH = 4;
    private static final int HOUSES = 5;
    private static final int ROOMS = 30;

    @Override
    public void run(Cluster cluster) throws Exception {
        KeyValueTableManager manager = cluster.tableManager();
        KeyValueTableConfiguration configuration = KeyValueTableConfiguration.builder()
                .partitionCount(3).primaryKeyLength(PRIMARY_LENGTH)
                .secondaryKeyLength(SECONDARY_LENGTH).build();
        Check.that(manager.createKeyValueTable(cluster.scope, "table", configuration), "new");
        Check.that(!manager.createKeyValueTable(cluster.scope, "table", configuration), "not new");
        List<String> names = new ArrayList<>();
        manager.listKeyValueTables(cluster.scope)
                .forEachRemaining(info -> names.add(info.getKeyValueTableName()));
        Check.equal(List.of("table"), names, "tables of the scope");

        try (KeyValueTable table = cluster.tables()
                .forKeyValueTable("table", KeyValueTableClientConfiguration.builder().build())) {
            conditions(table);
            severalAtOnce(table);
            iteration(table);
        }
        Check.that(manager.deleteKeyValueTable(cluster.scope, "table"), "it was there");
        Check.that(!manager.deleteKeyValueTable(cluster.scope, "table"), "it is gone");

        Check.that(manager.createKeyValueTable(cluster.scope, "table", configuration), "new again");
        try (KeyValueTable table = cluster.tables()
                .forKeyValueTable("table", KeyValueTableClientConfiguration.builder().build())) {
            Check.that(!within(table.exists(key("h000", "r000"))), "a new table is empty");
        }
    }

    private static void conditions(KeyValueTable table) throws Exception {
        TableKey key = key("cond", "0000");
        Check.that(within(table.get(key)) == null, "no such key yet");
        Version first = within(table.update(new Insert(key, bytes("one"))));
        Check.fails(ConditionalTableUpdateException.class, "inserting what is there",
                () -> within(table.update(new Insert(key, bytes("x")))));
        Version second = within(table.update(new Put(key, bytes("two"), first)));
        Check.fails(BadKeyVersionException.class, "putting at an old version",
                () -> within(table.update(new Put(key, bytes("x"), first))));
        Check.equal("two", text(within(table.get(key)).getValue()), "value after the refusals");
        Check.equal(second, within(table.get(key)).getVersion(), "version after the refusals");
        Version third = within(table.update(new Put(key, bytes("three"))));
        Check.fails(BadKeyVersionException.class, "removing at an old version",
                () -> within(table.update(new Remove(key, second))));
        Check.that(within(table.exists(key)), "still there");
        within(table.update(new Remove(key, third)));
        Check.that(!within(table.exists(key)), "removed");
        Check.fails(ConditionalTableUpdateException.class, "putting at a version of what is gone",
                () -> within(table.update(new Put(key, bytes("x"), third))));
        within(table.update(new Remove(key)));
    }

    private static void severalAtOnce(KeyValueTable table) throws Exception {
        for (int house = 0; house < HOUSES; house++) {
            List<TableModification> rooms = new ArrayList<>();
            for (int room = 0; room < ROOMS; room++) {
                rooms.add(new Insert(room(house, room), bytes(house + "/" + room)));
            }
            Check.equal(ROOMS, within(table.update(rooms)).size(), "versions of one house");
        }
        Check.fails(ConditionalTableUpdateException.class, "one of two that is there already",
                () -> within(table.update(List.of(
                        new Insert(key("h000", "new "), bytes("x")),
                        new Insert(room(0, 0), bytes("x"))))));
        Check.that(!within(table.exists(key("h000", "new "))), "all or nothing");
        List<TableEntry> found = within(table.getAll(
                List.of(room(0, 1), key("none", "none"), room(4, 29))));
        Check.equal("0/1", text(found.get(0).getValue()), "first of three");
        Check.that(found.get(1) == null, "the second is missing");
        Check.equal("4/29", text(found.get(2).getValue()), "third of three");
    }

    private static void iteration(KeyValueTable table) throws Exception {
        KeyValueTableIterator.Builder small = table.iterator().maxIterationSize(7);
        Check.equal(HOUSES * ROOMS, new TreeSet<>(keys(small.all())).size(), "all keys");
        Check.equal(HOUSES * ROOMS, entries(small.all()).size(), "all entries");

        List<String> oneHouse = keys(small.forPrimaryKey(bytes("h002")));
        Check.equal(ROOMS, oneHouse.size(), "keys of one house");
        Check.equal(new ArrayList<>(new TreeSet<>(oneHouse)), oneHouse, "in order");
        Check.equal(List.of("h002/r010", "h002/r011", "h002/r012"),
                keys(small.forPrimaryKey(bytes("h002"), bytes("r010"), bytes("r012"))),
                "a range of rooms");
        Check.equal(10, keys(small.forPrimaryKey(bytes("h002"), bytes("r01"))).size(),
                "rooms by prefix");
        Check.equal(2 * ROOMS, keys(small.forRange(bytes("h001"), bytes("h002"))).size(),
                "a range of houses");
        Check.equal(HOUSES * ROOMS, keys(small.forPrefix(bytes("h00"))).size(), "houses by prefix");
        for (TableEntry entry : entries(small.forPrimaryKey(bytes("h003")))) {
            Check.that(text(entry.getValue()).startsWith("3/"), "values belong to their keys");
        }
    }

    private static List<String> keys(KeyValueTableIterator iterator) {
        List<String> keys = new ArrayList<>();
        for (TableKey key : drained(iterator.keys())) {
            keys.add(text(key.getPrimaryKey()) + "/" + text(key.getSecondaryKey()));
        }
        return keys;
    }

    private static List<TableEntry> entries(KeyValueTableIterator iterator) {
        return drained(iterator.entries());
    }

    private static <T> List<T> drained(AsyncIterator<IteratorItem<T>> iterator) {
        List<T> items = new ArrayList<>();
        Iterator<IteratorItem<T>> pages = iterator.asIterator();
        pages.forEachRemaining(page -> items.addAll(page.getItems()));
        return items;
    }

    private static TableKey room(int house, int room) {
        return key(String.format("h%03d", house), String.format("r%03d", room));
    }

    private static TableKey key(String primary, String secondary) {
        return new TableKey(bytes(primary), bytes(secondary));
    }

    private static ByteBuffer bytes(String text) {
        return ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String text(ByteBuffer bytes) {
        return StandardCharsets.UTF_8.decode(bytes.duplicate()).toString();
    }
}
