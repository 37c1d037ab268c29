// The 1.x line with a connection of type "local": what npx azure-local-service served.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "../support/server.mjs";
import { client, content, createContainer, deltas, eventually, loadContainer, saved, schema } from "./client.mjs";

let server, local;
before(async () => {
	server = await Server.create("--local");
	local = Object.assign(Object.create(server), { tenantId: "local", key: "a key that the server has never seen" });
}, { timeout: 60_000 });
after(() => server?.remove());

test("edits, summaries, versions, a late joiner and a restart in local mode", { timeout: 180_000 }, async () => {
	const a = await createContainer(local, { user: { id: "ada", name: "Ada" } });
	const b = await loadContainer(local, a.id, { user: { id: "ben", name: "Ben" } });
	assert.equal(b.map.get("made"), "detached");
	await eventually("both in the audience", () => a.services.audience.getMembers().size === 2);
	for (let i = 0; i < 70; i++) {
		a.map.set(`a-${i}`, i);
		b.map.set(`b-${i}`, i);
		await new Promise((resolve) => setImmediate(resolve));
	}
	await Promise.all([saved(a), saved(b)]);
	await eventually("both have the same content", () => content(a) === content(b));
	const acks = async () => (await deltas(local, a.id)).filter(({ type }) => type === "summaryAck");
	const [ack] = await eventually("a summaryAck", async () => { const found = await acks(); return found.length > 0 && found; }, 90_000);
	const late = await loadContainer(local, a.id);
	await eventually("a late joiner has it all", () => content(late) === content(a));
	const versions = await client(local).getContainerVersions(a.id, { maxCount: 50 });
	assert.ok(versions.some(({ id }) => id === JSON.parse(ack.data).handle), "the summary is listed");
	await assert.rejects(async () => client(local).copyContainer(a.id, schema), /not.?implemented/i, "as with Tinylicious: the client itself cannot");

	const want = content(a);
	for (const { container } of [a, b, late]) container.dispose();
	await server.stop();
	await server.start();
	const back = await loadContainer(local, a.id);
	await eventually("the old content", () => content(back) === want);
	back.map.set("after", "restart");
	await saved(back);
	back.container.dispose();
});
