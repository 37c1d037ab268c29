// Older versions of a container, and what a backend may do with tokens: unmodified azure-client 2.x.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { AzureClient } from "@fluidframework/azure-client";
import jwt from "jsonwebtoken";
import { Server } from "./support/server.mjs";
import { deltas, orderer } from "./support/rest.mjs";
import {
	client, connection, createContainer, eventually, loadContainer, mapContent, openTree, saved, schema, sign, treeContent,
} from "./support/client.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const acks = async (id) => (await deltas(server, id)).filter((op) => op.type === "summaryAck");

/** Edits until another summary is acknowledged, and returns how many there are. */
async function summarise(side, round) {
	const before = (await acks(side.id)).length;
	for (let i = 0; i < 120; i++) {
		side.container.initialObjects.map.set(`k${i % 10}`, `round ${round}, ${i}`);
		await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: an op of its own
	}
	side.container.initialObjects.map.set("round", round);
	await saved(side.container);
	return eventually("another summaryAck", async () => {
		const now = (await acks(side.id)).length;
		return now > before && now;
	}, 60_000);
}

test("every summary stays listed with its date, and an old version shows the old content", { timeout: 180_000 }, async () => {
	const a = await createContainer(server);
	const started = Date.now();
	for (let round = 1; round <= 3; round++) await summarise(a, round);

	const versions = await eventually("the list of the acknowledged summaries, newest first", async () => {
		const commits = (await acks(a.id)).map(({ contents }) => contents.handle).reverse();
		const listed = await client(server).getContainerVersions(a.id, { maxCount: 100 });
		return listed.slice(0, -1).map(({ id }) => id).join() === commits.join() && listed;
	});
	assert.ok(versions.length >= 4, `${versions.length} versions, want three summaries and the one it was created with`);
	const dates = versions.map(({ date }) => Date.parse(date));
	assert.deepEqual(dates, dates.toSorted((x, y) => y - x), "dates fall with age");
	for (const date of dates) assert.ok(Math.abs(date - started) < 180_000, `date ${new Date(date)}`);
	assert.equal((await client(server).getContainerVersions(a.id, { maxCount: 2 })).length, 2);

	const want = mapContent(a.container);
	const view = async (version) => (await client(server).viewContainerVersion(a.id, schema, version, "2")).container;
	const oldest = await view(versions.at(-1));
	assert.deepEqual(mapContent(oldest), {}, "as it was created");
	assert.deepEqual(treeContent(openTree(oldest)), []);
	const rounds = [];
	for (const version of versions.slice(0, -1).reverse()) {
		const old = await view(version);
		const { round = 0, k0 } = mapContent(old);
		rounds.push(round);
		assert.match(k0, new RegExp(`^round (${round}|${round + 1}), `), "one moment's content, not a mixture");
		old.dispose();
	}
	assert.deepEqual(rounds, rounds.toSorted((x, y) => x - y), "content grows from version to version");
	assert.ok(rounds[0] < 3, "the first summary does not show what came later");
	assert.deepEqual(mapContent(a.container), want, "looking changes nothing");

	// It is all there after a restart, and recovery is view, read and write anew.
	await server.stop();
	await server.start();
	assert.deepEqual((await client(server).getContainerVersions(a.id, { maxCount: 100 })).slice(-versions.length), versions);
	const first = await view(versions.at(-2));
	const recovered = await createContainer(server);
	for (const [key, value] of Object.entries(mapContent(first))) recovered.container.initialObjects.map.set(key, value);
	await saved(recovered.container);
	const reader = await loadContainer(server, recovered.id);
	await eventually("the recovered content", () => JSON.stringify(mapContent(reader.container)) === JSON.stringify(mapContent(first)));
	for (const container of [oldest, first, a.container, recovered.container, reader.container]) container.dispose();
});

test("when all have left the service adds a version, and clients load, view and summarise it", { timeout: 180_000 }, async () => {
	const a = await createContainer(server);
	a.container.initialObjects.map.set("k", "not summarized");
	await saved(a.container);
	const want = JSON.stringify(mapContent(a.container));
	a.container.dispose();
	const versions = await eventually("a version of the service's own", async () => {
		const listed = await client(server).getContainerVersions(a.id, { maxCount: 50 });
		return listed.length >= 2 && listed;
	});
	const before = (await acks(a.id)).length;
	assert.equal(versions.length, before + 2, "the first version, what clients summarized, and the service's");
	const viewed = (await client(server).viewContainerVersion(a.id, schema, versions[0], "2")).container;
	assert.ok(viewed.initialObjects.map, "it can be viewed");
	viewed.dispose();

	// Its log tail and the deltas after it bring everything; the next summary builds on it.
	const b = await loadContainer(server, a.id);
	await eventually("the content", () => JSON.stringify(mapContent(b.container)) === want);
	await summarise(b, 1);
	const listed = (await client(server).getContainerVersions(a.id, { maxCount: 50 })).map(({ id }) => id);
	const acked = (await acks(a.id)).slice(before).map(({ data }) => JSON.parse(data).handle).reverse();
	assert.deepEqual(listed.slice(-acked.length - versions.length), [...acked, ...versions.map(({ id }) => id)]);
	b.container.dispose();
});

test("a backend is told who created a container by a token that opens nothing", { timeout: 60_000 }, async () => {
	const told = [];
	const to = connection(server, { user: { id: "ada", name: "Ada" } });
	to.tokenProvider.documentPostCreateCallback = async (documentId, token) => void told.push({ documentId, token });
	const { container } = await new AzureClient({ connection: to }).createContainer(schema, "2");
	const id = await container.attach();
	assert.equal(told.length, 1);
	assert.equal(told[0].documentId, id);
	const claims = jwt.verify(told[0].token, server.key, { algorithms: ["HS256"] });
	assert.equal(claims.documentId, id);
	assert.equal(claims.tenantId, server.tenantId);
	assert.deepEqual(claims.scopes, []);
	assert.deepEqual(claims.user, { id: "ada", name: "Ada" });
	assert.equal(claims.exp - claims.iat, 300);
	const response = await fetch(`${server.endpoint}/deltas/${server.tenantId}/${id}`, { headers: { Authorization: `Basic ${told[0].token}` } });
	assert.equal(response.status, 403);
	assert.equal(await response.json(), "Missing scopes in token claims.");
	container.dispose();
});

test("a revoked token is cut off and opens nothing, and its client goes on with a fresh one", { timeout: 60_000 }, async () => {
	const a = await createContainer(server);
	const user = { id: "ben", name: "Ben" };
	const first = sign(server, a.id, { user });
	const { jti } = jwt.decode(first);
	const to = connection(server, { user });
	let refreshed = 0;
	to.tokenProvider.fetchOrdererToken = async (_, id, refresh) => ({ jwt: refresh ? (refreshed++, sign(server, id, { user })) : first });
	const { container } = await new AzureClient({ connection: to }).getContainer(a.id, schema, "2");
	container.initialObjects.map.set("by", "the first token");
	await saved(container);

	let cut = false;
	container.on("disconnected", () => (cut = true));
	const revoked = await orderer(server, a.id, `/documents/${server.tenantId}/document/${a.id}/revokeToken`, {
		method: "POST",
		body: JSON.stringify({ jti }),
		headers: { "x-correlation-id": randomUUID() },
		claims: { scopes: ["doc:read", "doc:write", "token:revoke"] },
	});
	assert.equal(revoked.status, 200);
	await eventually("the socket is cut", () => cut);
	const refused = await fetch(`${server.endpoint}/deltas/${server.tenantId}/${a.id}`, { headers: { Authorization: `Basic ${first}` } });
	assert.equal(refused.status, 403);
	assert.equal(await refused.json(), "Permission denied. Access token has been revoked.");

	container.initialObjects.map.set("by", "a fresh token");
	await eventually("the edit made with a fresh token", () => a.container.initialObjects.map.get("by") === "a fresh token", 30_000);
	assert.ok(refreshed > 0);
	for (const side of [a.container, container]) side.dispose();
});
