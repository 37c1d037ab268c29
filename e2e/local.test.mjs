// Local mode: clients with a connection of type "local", and Tinylicious' own, unmodified.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { getPresence } from "fluid-framework";
import { StateFactory } from "@fluid-internal/presence-runtime/states";
import { TinyliciousClient } from "@fluidframework/tinylicious-client";
import { Server } from "./support/server.mjs";
import { deltas, orderer, storage } from "./support/rest.mjs";
import {
	Item, client, createContainer, eventually, loadContainer, mapContent, openTree, saved, schema, treeContent,
} from "./support/client.mjs";
import { canary, scan } from "./support/scan.mjs";

let server;
let local; // the same server as its local tenant
before(async () => {
	server = await Server.create("--local");
	local = Object.assign(Object.create(server), { tenantId: "local", key: "a key that the server has never seen" });
}, { timeout: 60_000 });
after(() => server?.remove());

// Tokens of local mode are taken at their word: these ended two hours ago.
const options = { type: "local", issued: Date.now() - 3 * 3_600_000, user: { id: "ada", name: "Ada" } };
const create = (more) => createContainer(local, { ...options, ...more });
const load = (id, more) => loadContainer(local, id, { ...options, ...more });

const content = (side) => JSON.stringify([mapContent(side.container), treeContent(side.tree)]);
const converged = (a, b) => eventually("both clients have the same content", () => content(a) === content(b));

async function edit(a, b, rounds, label) {
	for (let i = 0; i < rounds; i++) {
		for (const [side, name] of [[a, "a"], [b, "b"]]) {
			side.container.initialObjects.map.set(`${label}-${name}-${i}`, i);
			side.tree.root.list.insertAt(0, new Item({ id: `${label}-${name}-${i}`, text: `text ${i}` }));
		}
		await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: an op of its own
	}
	await Promise.all([saved(a.container), saved(b.container)]);
	await converged(a, b);
}

const answered = (id, after = 0) =>
	eventually("the answer to a summary", async () => (await deltas(local, id, after)).find((op) => /^summary(Ack|Nack)$/.test(op.type)), 60_000);

/** What the storage face answers. */
async function get(id, path) {
	const response = await storage(local, id, `/repos/local/${path}`);
	assert.equal(response.status, 200, `${path}: ${response.status}`);
	return response.json();
}

test("two clients of type local: edits, summaries, blob, late joiner, versions, restart", { timeout: 240_000 }, async () => {
	const a = await create();
	const b = await load(a.id);
	const bytes = new Uint8Array(70_000).map((_, i) => (i * 7919) % 251);
	a.container.initialObjects.map.set("blob", await a.container.uploadBlob(bytes.buffer));
	await edit(a, b, 70, "first"); // more than the hundred ops that make a client summarise
	const ack = await answered(a.id);
	assert.equal(ack.type, "summaryAck", ack.data);
	const first = JSON.parse(ack.data).handle;

	// As Tinylicious lays it out: the app's entries beside the service's, and git's own blob ids.
	const [version] = await get(a.id, `commits?count=1&sha=${a.id}`);
	assert.equal(version.sha, first);
	const root = await get(a.id, `git/trees/${version.commit.tree.sha}?recursive=1`);
	const top = root.tree.filter(({ path }) => !path.includes("/")).map(({ path }) => path);
	for (const name of [".channels", ".metadata", ".protocol", ".logTail"]) assert.ok(top.includes(name), `${name} is not in ${top}`);
	assert.ok(!top.includes(".app"), top.join());
	for (const entry of root.tree.filter(({ type }) => type === "blob")) {
		const blob = Buffer.from((await get(a.id, `git/blobs/${entry.sha}`)).content, "base64");
		assert.equal(createHash("sha1").update(`blob ${blob.length}\0`).update(blob).digest("hex"), entry.sha, entry.path);
	}
	const [ref] = await get(a.id, "git/refs");
	assert.deepEqual([ref.ref, ref.object.sha], [`refs/heads/${a.id}`, first]);
	assert.equal((await get(a.id, `git/commits/${first}`)).tree.sha, version.commit.tree.sha);

	const late = await load(a.id);
	await converged(a, late);
	const read = async (side) => new Uint8Array(await (await eventually("the blob's handle", () => side.container.initialObjects.map.get("blob"))).get());
	assert.deepEqual(await read(late), bytes);

	// The next summary names what it takes over from the first one by its ids.
	await edit(a, late, 70, "second");
	const second = await answered(a.id, ack.sequenceNumber);
	assert.equal(second.type, "summaryAck", second.data);
	const acked = (await deltas(local, a.id)).filter((op) => op.type === "summaryAck").map((op) => JSON.parse(op.data).handle);
	const versions = await client(local, options).getContainerVersions(a.id, { maxCount: 50 });
	assert.deepEqual(versions.map(({ id }) => id).slice(-acked.length - 1, -1), acked.reverse(), "every accepted summary, then the first version");

	const version1 = versions.find(({ id }) => id === first);
	const { container: old } = await client(local, options).viewContainerVersion(a.id, schema, version1, "2");
	assert.ok(old.initialObjects.map.has("first-a-0") && !old.initialObjects.map.has("second-a-69"), "an old version shows what was then");
	old.dispose();

	const want = content(a);
	const before = await deltas(local, a.id);
	for (const side of [a, b, late]) side.container.dispose();
	await server.stop();
	await server.start();
	const back = await load(a.id);
	await eventually("the old content", () => content(back) === want);
	assert.deepEqual((await deltas(local, a.id)).slice(0, before.length), before);
	assert.deepEqual(await read(back), bytes);
	back.container.initialObjects.map.set("after", "restart");
	await saved(back.container);
	back.container.dispose();
});

test("presence and signals, from clients and from a service", { timeout: 60_000 }, async () => {
	const a = await create();
	const b = await load(a.id, { user: { id: "ben", name: "Ben" } });
	const cursor = (side) =>
		getPresence(side.container).states.getWorkspace("e2e:cursors", { cursor: StateFactory.latest({ local: { x: 0 } }) }).states.cursor;
	const ofA = cursor(a);
	const ofB = cursor(b);
	ofA.local = { x: 42 };
	await eventually("a's cursor at b", () => [...ofB.getRemotes()].some(({ value }) => (typeof value === "function" ? value() : value)?.x === 42));
	await eventually("both in the audience", () => a.services.audience.getMembers().size === 2);
	assert.deepEqual([...a.services.audience.getMembers().keys()].sort(), ["ada", "ben"], "users come from the tokens");

	const body = JSON.stringify({ signalContent: { contents: { type: "news", content: { n: 1 } } } });
	const sent = await orderer(local, a.id, `/local/${a.id}/broadcast-signal`, { method: "POST", body });
	assert.equal(sent.status, 200);
	for (const side of [a, b]) side.container.dispose();
});

test("tinylicious-client works unchanged", { timeout: 120_000 }, async () => {
	const [domain, port] = [server.endpoint.replace(/:\d+$/, ""), Number(new URL(server.endpoint).port)];
	const tinylicious = new TinyliciousClient({ connection: { port, domain } });
	const { container } = await tinylicious.createContainer(schema, "2");
	const a = { container, tree: openTree(container, { fresh: true }) };
	const id = await container.attach();
	const loaded = await tinylicious.getContainer(id, schema, "2");
	const b = { container: loaded.container, tree: openTree(loaded.container) };
	await edit(a, b, 70, "tiny");
	const tenant = Object.assign(Object.create(local), { tenantId: "tinylicious" });
	const ack = await eventually("a summary", async () => (await deltas(tenant, id)).find((op) => op.type.startsWith("summaryAck")), 60_000);
	assert.ok(ack);
	const late = await tinylicious.getContainer(id, schema, "2");
	await converged(a, { container: late.container, tree: openTree(late.container) });
	for (const side of [a, b, late]) side.container.dispose();
});

test("local data is sealed, and other tenants still want good tokens", { timeout: 60_000 }, async () => {
	const planted = { op: canary("op"), user: canary("user") };
	const a = await create({ user: { id: planted.user, name: planted.user } });
	a.container.initialObjects.map.set("k", planted.op);
	await saved(a.container);
	assert.deepEqual(scan(server.data, [...Object.values(planted), a.id]), []);
	a.container.dispose();

	await assert.rejects(createContainer(server, { key: local.key }), { errorType: "authorizationError" });
	await assert.rejects(createContainer(server, { issued: options.issued }), { errorType: "authorizationError" });
	const body = JSON.stringify({ tree: [] });
	assert.equal((await storage(server, a.id, `/repos/${server.tenantId}/git/trees`, { method: "POST", body })).status, 404);
});

test("without --local there is no tenant local, and with it its documents are back", { timeout: 60_000 }, async () => {
	const a = await create();
	a.container.initialObjects.map.set("k", "v");
	await saved(a.container);
	a.container.dispose();
	await server.stop();
	server.flags = [];
	await server.start();
	assert.equal((await orderer(local, a.id, `/deltas/local/${a.id}`)).status, 404, "a token that is good but for its signature");
	await assert.rejects(create({ issued: Date.now() }));
	await server.stop();
	server.flags = ["--local"];
	await server.start();
	const back = await load(a.id);
	await eventually("the content", () => back.container.initialObjects.map.get("k") === "v");
	back.container.dispose();
});
