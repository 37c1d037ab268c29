// The key rules: the owner of the key disables it, and nothing is served; he
// enables it, and everything is back.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { io } from "socket.io-client";
import { Server } from "./support/server.mjs";
import { deltas, orderer, storage } from "./support/rest.mjs";
import { ConnectionState, createContainer, eventually, loadContainer, mapContent, saved, sign } from "./support/client.mjs";

const stopWithin = 60_000;
const backWithin = 30_000;

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const setKey = (verb) => server.cli("keyvault", "key", verb, "--vault", "quickstart-vault", "--name", "relay-key");

test("disabling the key stops everything within 60 s; enabling it brings everything back within 30 s", { timeout: 240_000 }, async (t) => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	const closed = [];
	for (const side of [a, b]) side.container.on("disposed", (error) => closed.push(error));
	const write = async (side, label, count) => {
		for (let i = 0; i < count; i++) {
			side.container.initialObjects.map.set(`${label}-${i}`, i);
			await new Promise((resolve) => setImmediate(resolve));
		}
	};
	await Promise.all([write(a, "a", 30), write(b, "b", 30)]);
	await Promise.all([saved(a.container), saved(b.container)]);
	const acknowledged = await deltas(server, a.id);

	await setKey("disable");
	const disabled = Date.now();
	const rest = () => orderer(server, a.id, `/deltas/${server.tenantId}/${a.id}`);
	const refused = await eventually("REST refuses", async () => {
		const response = await rest();
		return response.status === 403 && response.json();
	}, stopWithin);
	assert.equal(refused.code, "CMK_KEY_REVOKED:KeyDisabled", "the reason is said");
	await eventually("both clients are stopped", () =>
		[a, b].every(({ container }) => container.connectionState !== ConnectionState.Connected), stopWithin - (Date.now() - disabled));
	const stopped = Date.now() - disabled;

	// An edit made now waits in the client: the key may come back.
	a.container.initialObjects.map.set("held", "made while the key was off");
	const blob = await storage(server, a.id, `/repos/${server.tenantId}/git/summaries/latest`);
	assert.equal(blob.status, 403, "summaries too");
	assert.equal((await blob.json()).code, "CMK_KEY_REVOKED:KeyDisabled");
	const empty = { summary: { type: "tree", entries: [] }, sequenceNumber: 0, values: [], enableAnyBinaryBlobOnFirstSummary: true };
	const create = await orderer(server, "", `/documents/${server.tenantId}`, { method: "POST", body: JSON.stringify(empty) });
	assert.equal(create.status, 503, "no new container while the key is off: a client that is attaching waits");
	assert.ok((await create.json()).retryAfter > 0);
	const connect = await connectRaw(a.id);
	assert.equal(connect.event, "connect_document_error");
	assert.match(connect.body.message, /KeyDisabled/, "a new connection is told the reason");
	assert.ok(connect.body.retryAfterMs > 0, "and when to come back");
	assert.equal(closed.length, 0, "no client was closed for good: " + closed);

	// What needs no key still works.
	assert.equal(JSON.parse((await server.cli("relay", "show", "--output", "json")).stdout).properties.provisioningState, "Succeeded");
	await server.cli("relay", "keys");

	await setKey("enable");
	const enabled = Date.now();
	await eventually("REST answers again", async () => (await rest()).status === 200, backWithin);
	const back = Date.now() - enabled;
	const now = await deltas(server, a.id);
	assert.deepEqual(now.slice(0, acknowledged.length), acknowledged, "every acknowledged op, in order");
	assert.deepEqual(now.map((op) => op.sequenceNumber), now.map((_, i) => i + 1));

	// The clients come back by themselves, with the edit that waited.
	await eventually("the held edit at the other client", () => b.container.initialObjects.map.get("held"), 120_000);
	await saved(a.container);
	const late = await loadContainer(server, a.id);
	await eventually("a late joiner has everything", () =>
		JSON.stringify(mapContent(late.container)) === JSON.stringify(mapContent(a.container)));
	t.diagnostic(`stopped ${stopped} ms after the key was disabled, back ${back} ms after it was enabled`);
	for (const side of [a, b, late]) side.container.dispose();
});

test("a drill holds the clients of a relay and brings them back, with their pending edits", { timeout: 240_000 }, async (t) => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	const closed = [];
	for (const side of [a, b]) side.container.on("disposed", (error) => closed.push(error));
	a.container.initialObjects.map.set("before", 1);
	await Promise.all([saved(a.container), eventually("the other client", () => b.container.initialObjects.map.get("before") === 1)]);
	const acknowledged = await deltas(server, a.id);
	const drill = server.cli("cmk", "drill", "--hold", "10s", "--output", "json");
	await eventually("both clients are stopped", () =>
		[a, b].every(({ container }) => container.connectionState !== ConnectionState.Connected), stopWithin);
	a.container.initialObjects.map.set("held", "made during the drill");
	const report = JSON.parse((await drill).stdout);
	assert.equal(report.state, "Ended");
	assert.equal(report.promiseKept, true, JSON.stringify(report));
	assert.ok(report.secondsToEnforce <= 60 && report.secondsToRecover <= 30);
	await eventually("the held edit at the other client", () => b.container.initialObjects.map.get("held"), 120_000);
	assert.equal(closed.length, 0, "no client was closed for good: " + closed);
	assert.deepEqual((await deltas(server, a.id)).slice(0, acknowledged.length), acknowledged, "every acknowledged op, in order");
	assert.equal(JSON.parse((await server.cli("cmk", "prove", "--output", "json")).stdout).state, "Proven");
	t.diagnostic(`enforced after ${report.secondsToEnforce} s, recovered after ${report.secondsToRecover} s`);
	for (const side of [a, b]) side.container.dispose();
});

test("where nobody is to be held, a revoked key closes the clients", { timeout: 180_000 }, async () => {
	const strict = await Server.create("--cmk-hold", "0");
	try {
		const a = await createContainer(strict);
		const b = await loadContainer(strict, a.id);
		const closed = new Promise((resolve) => b.container.on("disposed", resolve));
		await strict.cli("keyvault", "key", "disable", "--vault", "quickstart-vault", "--name", "relay-key");
		b.container.initialObjects.map.set("typed", "while the key goes off");
		let timer;
		const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error("the client is still open")), stopWithin + 10_000)));
		await Promise.race([closed, late]).finally(() => clearTimeout(timer));
		const response = await orderer(strict, a.id, `/documents/${strict.tenantId}/session/${a.id}`);
		assert.equal(response.status, 403, "discovery is refused for good too");
		a.container.dispose();
	} finally {
		await strict.remove();
	}
});

/** Opens a socket by hand and returns the answer to connect_document. */
async function connectRaw(id) {
	const socket = io(server.endpoint, { transports: ["websocket"], reconnection: false, query: { documentId: id, tenantId: server.tenantId } });
	try {
		return await new Promise((resolve, reject) => {
			for (const event of ["connect_document_success", "connect_document_error"])
				socket.on(event, (body) => resolve({ event, body }));
			socket.on("connect_error", reject);
			socket.on("connect", () => socket.emit("connect_document", {
				tenantId: server.tenantId, id, token: sign(server, id), mode: "write", versions: ["^0.4.0"],
				client: { mode: "write", permission: [], scopes: [], user: { id: "raw" }, details: { capabilities: { interactive: true } } },
			}));
		});
	} finally {
		socket.close();
	}
}
