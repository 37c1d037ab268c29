// Containers as their operator sees them: listed, shown and deleted by the command
// line while real clients are connected.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./support/server.mjs";
import { orderer, storage } from "./support/rest.mjs";
import { client, createContainer, eventually, loadContainer, saved, schema } from "./support/client.mjs";

let server;
before(async () => (server = await Server.create()), { timeout: 60_000 });
after(() => server?.remove());

const names = ["--name", "quickstart", "--resource-group", "quickstart"];
const container = (verb, ...args) => server.cli("container", verb, ...names, ...args, "--output", "json");
const listed = async () => JSON.parse((await container("list")).stdout).map((one) => one.properties.frsContainerId);

test("containers are listed and shown with their times", { timeout: 60_000 }, async () => {
	assert.deepEqual(await listed(), []);
	const started = Math.floor(Date.now() / 1000) * 1000;
	const made = await createContainer(server);
	const other = await createContainer(server);
	await saved(made.container);
	assert.deepEqual((await listed()).sort(), [made.id, other.id].sort());
	const { name, type, properties } = JSON.parse((await container("show", "--id", made.id)).stdout);
	assert.equal(name, made.id);
	assert.equal(type, "Microsoft.FluidRelay/fluidRelayServers/fluidRelayContainers");
	assert.equal(properties.frsTenantId, server.tenantId);
	assert.equal(properties.provisioningState, "Succeeded");
	const created = Date.parse(properties.creationTime);
	const accessed = Date.parse(properties.lastAccessTime);
	assert.ok(started <= created && created <= accessed && accessed <= Date.now(), JSON.stringify(properties));
	const table = await server.cli("container", "list", ...names);
	assert.match(table.stdout, new RegExp(`^ID +CREATED +LAST ACCESS\n(.*\n)*${made.id} `));
	for (const side of [made, other]) side.container.dispose();
	for (const { id } of [made, other]) await container("delete", "--id", id);
});

test("more containers than a page shows are all listed", { timeout: 60_000 }, async () => {
	const empty = { summary: { type: "tree", entries: [] }, sequenceNumber: 0, values: [], enableAnyBinaryBlobOnFirstSummary: true };
	const ids = [];
	for (let i = 0; i < 101; i++) {
		const response = await orderer(server, "", `/documents/${server.tenantId}`, { method: "POST", body: JSON.stringify(empty) });
		assert.equal(response.status, 201);
		ids.push(await response.json());
	}
	assert.deepEqual((await listed()).sort(), ids.sort());
});

test("deleting a container disconnects its clients, who cannot come back", { timeout: 120_000 }, async () => {
	const a = await createContainer(server);
	const b = await loadContainer(server, a.id);
	const bystander = await createContainer(server);
	a.container.initialObjects.map.set("k", "v");
	await eventually("the edit at the other client", () => b.container.initialObjects.map.get("k"));
	await saved(a.container);
	const gone = [a, b].map(({ container: c }) => new Promise((resolve) => c.once("disposed", resolve)));
	const left = [a, b].map(({ container: c }) => new Promise((resolve) => c.once("disconnected", resolve)));

	await container("delete", "--id", a.id);
	await Promise.all(left);
	// Each tries to come back, is told that the container is gone, and closes for good.
	await Promise.all(gone);

	assert.ok(!(await listed()).includes(a.id));
	await assert.rejects(container("show", "--id", a.id), (error) => /ResourceNotFound/.test(error.stderr) && error.code === 1);
	await assert.rejects(container("delete", "--id", a.id), (error) => /ResourceNotFound/.test(error.stderr));
	const refused = async () => {
		const session = await orderer(server, a.id, `/documents/${server.tenantId}/session/${a.id}`);
		assert.equal(session.status, 404);
		assert.equal(await session.json(), "Document is deleted and cannot be accessed.");
		assert.equal((await storage(server, a.id, `/repos/${server.tenantId}/git/summaries/latest`)).status, 404);
		const again = { id: a.id, summary: { type: "tree", entries: [] }, sequenceNumber: 9, values: [], enableAnyBinaryBlobOnFirstSummary: true };
		const resurrect = await orderer(server, a.id, `/documents/${server.tenantId}`, { method: "POST", body: JSON.stringify(again) });
		assert.equal(resurrect.status, 409, "nobody brings it back under its id");
		await assert.rejects(client(server).getContainer(a.id, schema, "2"));
	};
	await refused();

	// Others did not notice.
	bystander.container.initialObjects.map.set("still", "here");
	await saved(bystander.container);

	await server.stop();
	await server.start();
	await refused();
	for (const side of [a, b, bystander]) side.container.dispose();
});
