// The 3.x driver speaks to Tidelock: azure-client, of which there is no 3.x, on top of it.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import jwt from "jsonwebtoken";
import { Server } from "../support/server.mjs";

globalThis.navigator ??= {}; // Node.js 20 has none, and the clients expect one

const { AzureClient } = await import("@fluidframework/azure-client");
const { SharedMap } = await import("fluid-framework/legacy");

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const schema = { initialObjects: { map: SharedMap } };

function sign(documentId, key = server.key) {
	const iat = Math.floor(Date.now() / 1000);
	const scopes = ["doc:read", "doc:write", "summary:write"];
	const user = { id: "tester", name: "Tester" };
	return jwt.sign({ tenantId: server.tenantId, documentId, scopes, user, ver: "1.0", iat, exp: iat + 3600, jti: randomUUID() }, key, { algorithm: "HS256" });
}

function client(key) {
	const token = async (_, documentId) => ({ jwt: sign(documentId ?? "", key) });
	const tokenProvider = { fetchOrdererToken: token, fetchStorageToken: token };
	return new AzureClient({ connection: { type: "remote", endpoint: server.endpoint, tenantId: server.tenantId, tokenProvider } });
}

const load = async (id, key) => (await client(key).getContainer(id, schema, "2")).container;
const content = (container) => JSON.stringify([...container.initialObjects.map.entries()].sort());

async function eventually(what, check, milliseconds = 60_000) {
	const deadline = Date.now() + milliseconds;
	for (;;) {
		const value = await check();
		if (value) return value;
		if (Date.now() > deadline) throw new Error(`not within ${milliseconds} ms: ${what}`);
		await new Promise((resolve) => setTimeout(resolve, 20));
	}
}

test("the client is built on the 3.x driver and on no other", () => {
	const { packages } = JSON.parse(readFileSync(new URL("package-lock.json", import.meta.url)));
	const drivers = Object.entries(packages).filter(([path]) => path.endsWith("/routerlicious-driver"));
	assert.deepEqual(drivers.map(([path, { version }]) => [path, version]), [["node_modules/@fluidframework/routerlicious-driver", "3.0.2"]]);
});

test("create, edit at once, summarise, join late, restart, list and view versions", { timeout: 180_000 }, async () => {
	const { container: a } = await client().createContainer(schema, "2");
	const id = await a.attach();
	const b = await load(id);
	const blob = new Uint8Array(70_000).map((_, i) => (i * 7919) % 251);
	a.initialObjects.map.set("blob", await a.uploadBlob(blob.buffer));
	for (let i = 0; i < 80; i++) {
		for (const [name, { initialObjects }] of [["a", a], ["b", b]]) {
			initialObjects.map.set(`${name}${i}`, i);
			initialObjects.map.set("contended", `${name}${i}`);
		}
		await new Promise((resolve) => setImmediate(resolve)); // a turn of its own: ops of their own
	}
	const text = (container) => JSON.stringify([...container.initialObjects.map.entries()].filter(([key]) => key !== "blob").sort());
	await eventually("both have the same content", () => !a.isDirty && !b.isDirty && text(a) === text(b));
	assert.equal(a.initialObjects.map.size, 162);

	const versions = await eventually("a second version", async () => {
		const listed = await client().getContainerVersions(id);
		return listed.length >= 2 && listed;
	});
	for (const { date } of versions) assert.ok(Math.abs(Date.now() - Date.parse(date)) < 180_000, `date ${date}`);
	const { container: old } = await client().viewContainerVersion(id, schema, versions.at(-1), "2");
	assert.equal(content(old), "[]", "the first version shows what was there at first");

	const late = await load(id);
	await eventually("a late joiner has the same content", () => text(late) === text(a));
	assert.deepEqual(new Uint8Array(await late.initialObjects.map.get("blob").get()), blob);

	await server.stop();
	a.initialObjects.map.set("offline", "edited while the server was away");
	await server.start();
	await eventually("the offline edit at b", () => b.initialObjects.map.get("offline"));
	for (const container of [a, b, old, late]) container.dispose();
});

test("a wrong key and an unknown document are refused", { timeout: 60_000 }, async () => {
	const { container } = await client().createContainer(schema, "2");
	const id = await container.attach();
	await assert.rejects(load(id, "0".repeat(32)), { errorType: "authorizationError" });
	await assert.rejects(load("no-such-document"), { errorType: "fileNotFoundOrAccessDeniedError" });
	container.dispose();
});
