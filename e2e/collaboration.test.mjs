// A Fluid app collaborates through Tidelock: unmodified azure-client 2.x.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { getPresence } from "fluid-framework";
import { StateFactory } from "@fluid-internal/presence-runtime/states";
import { Server } from "./support/server.mjs";
import { deltas } from "./support/rest.mjs";
import {
	Item, client, createContainer, eventually, loadContainer, mapContent, openTree, saved, schema, treeContent,
} from "./support/client.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

/** Both clients edit at once and must end with the same content. */
async function editConcurrently(a, b, rounds, label) {
	const edit = async (side, name) => {
		for (let i = 0; i < rounds; i++) {
			side.container.initialObjects.map.set(`${label}-${name}-${i}`, `${name} ${i}`);
			side.container.initialObjects.map.set(`${label}-contended`, `${name} ${i}`);
			side.tree.root.list.insertAt(0, new Item({ id: `${label}-${name}-${i}`, text: `text ${i}` }));
			await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: an op of its own
		}
	};
	await Promise.all([edit(a, "a"), edit(b, "b")]);
	await Promise.all([saved(a.container), saved(b.container)]);
	await converged(a, b);
}

const sameContent = (a, b) =>
	JSON.stringify([mapContent(a.container), treeContent(a.tree)]) === JSON.stringify([mapContent(b.container), treeContent(b.tree)]);

const converged = (a, b) => eventually("both clients have the same content", () => sameContent(a, b));

/** Waits for a summary of the document and returns its ack. */
const summaryAck = (id, afterSeq = 0) =>
	eventually("a summaryAck", async () => (await deltas(server, id, afterSeq)).find((op) => op.type === "summaryAck"), 60_000);

test("two clients edit SharedMap and SharedTree at once and converge", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await editConcurrently(a, b, 20, "edit");
	assert.equal(treeContent(a.tree).length, 40);
	assert.equal(Object.keys(mapContent(a.container)).length, 41);

	const ops = await deltas(server, a.id);
	assert.deepEqual(ops.map((op) => op.sequenceNumber), ops.map((_, i) => i + 1), "one order without gap or repeat");
	a.container.dispose();
	b.container.dispose();
});

test("a summary is acknowledged, a late joiner loads from it, and a blob goes up and down", { timeout: 180_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	const bytes = new Uint8Array(70_000).map((_, i) => (i * 7919) % 251);
	a.container.initialObjects.map.set("blob", await a.container.uploadBlob(bytes.buffer));
	await editConcurrently(a, b, 70, "summarised"); // more than the hundred ops that make a client summarise
	const ack = await summaryAck(a.id);
	const { handle, summaryProposal } = JSON.parse(ack.data);
	assert.match(handle, /^[0-9a-f]{40}$/);
	assert.ok(summaryProposal.summarySequenceNumber < ack.sequenceNumber);

	const versions = await client(server).getContainerVersions(a.id);
	assert.equal(versions[0].id, handle, "the newest version is the acknowledged commit");
	assert.equal(versions.length, 2, "the first summary is still listed");

	const late = await loadContainer(server, a.id);
	await converged(a, late);
	const down = await eventually("the blob's handle", () => late.container.initialObjects.map.get("blob"));
	assert.deepEqual(new Uint8Array(await down.get()), bytes);

	// The next summary builds on the first one, by handle.
	await editConcurrently(a, late, 70, "second");
	const second = await summaryAck(a.id, ack.sequenceNumber);
	assert.notEqual(JSON.parse(second.data).handle, handle);
	const later = await loadContainer(server, a.id);
	await converged(a, later);
	const again = await eventually("the blob's handle", () => later.container.initialObjects.map.get("blob"));
	assert.deepEqual(new Uint8Array(await again.get()), bytes);
	for (const side of [a, b, late, later]) side.container.dispose();
});

test("presence and signals reach the other clients, and leave with their client", { timeout: 60_000 }, async () => {
	const a = await createContainer(server, { user: { id: "ada", name: "Ada" } });
	const b = await loadContainer(server, a.id, { user: { id: "ben", name: "Ben" } });
	const cursors = (side) =>
		getPresence(side.container).states.getWorkspace("e2e:cursors", { cursor: StateFactory.latest({ local: { x: 0 } }) }).states.cursor;
	const ofA = cursors(a);
	const ofB = cursors(b);
	ofA.local = { x: 42 };
	await eventually("a's cursor at b", () => [...ofB.getRemotes()].some(({ value }) => (typeof value === "function" ? value() : value)?.x === 42));

	await eventually("both in the audience", () => a.services.audience.getMembers().size === 2);
	assert.deepEqual([...a.services.audience.getMembers().keys()].sort(), ["ada", "ben"], "users come from the tokens");
	b.container.dispose();
	await eventually("b has left the audience", () => a.services.audience.getMembers().size === 1);
	a.container.dispose();
});

test("everything is there after all clients left and the server was restarted", { timeout: 120_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await editConcurrently(a, b, 20, "kept");
	const want = [mapContent(a.container), treeContent(a.tree)];
	const before = await deltas(server, a.id);
	a.container.dispose();
	b.container.dispose();

	await server.stop();
	await server.start();
	const back = await loadContainer(server, a.id);
	await eventually("the old content", () => JSON.stringify([mapContent(back.container), treeContent(back.tree)]) === JSON.stringify(want));
	const now = await deltas(server, a.id);
	assert.deepEqual(now.slice(0, before.length), before, "the ops are the same, byte for byte in meaning");
	back.container.initialObjects.map.set("after", "restart");
	await saved(back.container);
	back.container.dispose();
});

test("clients that stay connected over a restart go on without losing an edit", { timeout: 120_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	await editConcurrently(a, b, 5, "before");
	await server.stop();
	a.container.initialObjects.map.set("offline", "edited while the server was away");
	await server.start();
	await eventually("the offline edit at b", () => b.container.initialObjects.map.get("offline"), 60_000);
	await editConcurrently(a, b, 5, "after");
	a.container.dispose();
	b.container.dispose();
});

test("a read-only token opens a container that cannot be edited", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	a.container.initialObjects.map.set("k", "v");
	await saved(a.container);
	const { container } = await client(server, { scopes: ["doc:read"] }).getContainer(a.id, schema, "2");
	openTree(container);
	await eventually("the content", () => container.initialObjects.map.get("k") === "v");
	a.container.initialObjects.map.set("k", "later");
	await eventually("later ops too", () => container.initialObjects.map.get("k") === "later");
	container.dispose();
	a.container.dispose();
});

test("wrong key, expired token and unknown document are refused", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	await saved(a.container);
	const load = (options, id = a.id) => client(server, options).getContainer(id, schema, "2");
	await assert.rejects(load({ key: "0".repeat(32) }), { errorType: "authorizationError" });
	await assert.rejects(load({ issued: Date.now() - 7_200_000 }), { errorType: "authorizationError" });
	await assert.rejects(load({}, "no-such-document"), { errorType: "fileNotFoundOrAccessDeniedError" });
	await assert.rejects(load({ tenantId: "11111111-2222-3333-4444-555555555555" }));
	const { container } = await load({ key: server.key2 });
	container.dispose();
	a.container.dispose();
});
