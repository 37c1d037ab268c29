// Apps that still run on the 1.x line collaborate through Tidelock: unmodified azure-client 1.2.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "../support/server.mjs";
import { client, content, createContainer, deltas, eventually, loadContainer, saved, schema } from "./client.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const converged = (a, b) => eventually("both clients have the same content", () => content(a) === content(b));

/** Both clients edit at once, contended keys among them, and must end with the same content. */
async function editConcurrently(a, b, rounds, label) {
	const edit = async (side, name) => {
		for (let i = 0; i < rounds; i++) {
			side.map.set(`${label}-${name}-${i}`, `${name} ${i}`);
			side.map.set(`${label}-contended`, `${name} ${i}`);
			await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: ops of their own
		}
	};
	await Promise.all([edit(a, "a"), edit(b, "b")]);
	await Promise.all([saved(a), saved(b)]);
	await converged(a, b);
}

/** The summaryAcks after an op. */
const acks = async (id, seq = 0) => (await deltas(server, id, seq)).filter((op) => op.type === "summaryAck");

/** Waits for a summary after an op and returns the sequence number of its ack. */
async function summaryAfter(id, seq = 0) {
	const [ack] = await eventually("a summaryAck", async () => { const found = await acks(id, seq); return found.length > 0 && found; }, 60_000);
	return ack.sequenceNumber;
}

const dispose = (...sides) => sides.forEach(({ container }) => container.dispose());

test("what the old summary format created is loaded, and two clients edit it at once", { timeout: 60_000 }, async () => {
	const a = await createContainer(server, { user: { id: "ada", name: "Ada" } });
	const b = await loadContainer(server, a.id, { user: { id: "ben", name: "Ben" } });
	assert.equal(b.map.get("made"), "detached", "the first summary went up and down");
	await eventually("both in the audience", () => a.services.audience.getMembers().size === 2);
	assert.deepEqual([...a.services.audience.getMembers().keys()].sort(), ["ada", "ben"], "users come from the tokens");
	await editConcurrently(a, b, 20, "edit");
	assert.equal(a.map.size, 42);
	const ops = await deltas(server, a.id);
	assert.deepEqual(ops.map((op) => op.sequenceNumber), ops.map((_, i) => i + 1), "one order without gap or repeat");
	dispose(a, b);
});

test("summaries are acknowledged, listed and kept, and a late joiner loads from the last", { timeout: 180_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await editConcurrently(a, b, 70, "first"); // more than the hundred ops that make a client summarise
	const first = await summaryAfter(a.id);
	const late = await loadContainer(server, a.id);
	await converged(a, late);
	const afterFirst = late.map.size;

	// The next one builds on it, by handle.
	await editConcurrently(a, late, 70, "second");
	await summaryAfter(a.id, first);
	const later = await loadContainer(server, a.id);
	await converged(a, later);

	const versions = await eventually("every acknowledged summary in the list, newest first", async () => {
		const commits = (await acks(a.id)).map(({ contents }) => contents.handle).reverse();
		const listed = await client(server).getContainerVersions(a.id, { maxCount: 100 });
		return commits.length >= 2 && commits.join() === listed.slice(0, -1).map(({ id }) => id).join() && listed;
	});
	for (const { date } of versions) assert.ok(Math.abs(Date.now() - new Date(date)) < 180_000, `date ${date}`);
	assert.equal((await client(server).getContainerVersions(a.id, { maxCount: 1 })).length, 1);

	// A copy of the first version has what was there then, and goes its own way.
	const copied = await client(server).copyContainer(a.id, schema, versions.at(-1));
	const copy = { container: copied.container, map: copied.container.initialObjects.map };
	copy.id = await copy.container.attach();
	assert.notEqual(copy.id, a.id);
	assert.equal(copy.map.get("made"), "detached");
	copy.map.set("only", "in the copy");
	await saved(copy);
	const again = await loadContainer(server, copy.id);
	await eventually("the copy's edit", () => again.map.get("only"));
	assert.deepEqual([...again.map.keys()].sort(), ["made", "only"], "nothing of what came later");
	assert.equal(a.map.get("only"), undefined);
	const newest = (await client(server).copyContainer(a.id, schema)).container;
	assert.ok(newest.initialObjects.map.size >= afterFirst, "without a version the newest is copied");
	newest.dispose();
	dispose(a, b, late, later, copy, again);
});

test("clients go on over a restart, and everything is there after all have left", { timeout: 120_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await editConcurrently(a, b, 10, "before");
	await server.stop();
	a.map.set("offline", "edited while the server was away");
	await server.start();
	await eventually("the offline edit at b", () => b.map.get("offline"), 60_000);
	await saved(a);
	const want = content(b);
	dispose(a, b);

	await server.stop();
	await server.start();
	const back = await loadContainer(server, a.id);
	await eventually("the old content", () => content(back) === want);
	back.map.set("after", "restart");
	await saved(back);
	dispose(back);
});

test("when all have left the service adds a version, and clients load and summarise it", { timeout: 180_000 }, async () => {
	const a = await createContainer(server);
	a.map.set("k", "not summarized");
	await saved(a);
	const want = content(a);
	dispose(a);
	const versions = await eventually("a version of the service's own", async () => {
		const listed = await client(server).getContainerVersions(a.id, { maxCount: 50 });
		return listed.length === 2 && listed;
	});
	const b = await loadContainer(server, a.id);
	await eventually("the content, its last edit from the log tail", () => content(b) === want);
	const c = await loadContainer(server, a.id);
	await editConcurrently(b, c, 70, "more");
	await summaryAfter(a.id);
	const [ack] = await acks(a.id);
	const listed = await client(server).getContainerVersions(a.id, { maxCount: 50 });
	assert.deepEqual(listed.slice(-3).map(({ id }) => id), [JSON.parse(ack.data).handle, ...versions.map(({ id }) => id)]);
	dispose(b, c);
});

test("a wrong key and an unknown document are refused", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const load = (options, id = a.id) => client(server, options).getContainer(id, schema);
	await assert.rejects(load({ key: "0".repeat(32) }), { errorType: "authorizationError" });
	await assert.rejects(client(server, { key: "0".repeat(32) }).createContainer(schema).then(({ container }) => container.attach()), { errorType: "authorizationError" });
	await assert.rejects(load({}, "no-such-document"), { errorType: "fileNotFoundOrAccessDeniedError" });
	const { container } = await load({ key: server.key2 });
	container.dispose();
	dispose(a);
});
