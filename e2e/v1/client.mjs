// Unmodified Fluid clients of the 1.x line. Nothing here loads a 2.x client.
import { randomUUID } from "node:crypto";
import jwt from "jsonwebtoken";
import { AzureClient } from "@fluidframework/azure-client";
import { SharedMap } from "fluid-framework";

export const schema = { initialObjects: { map: SharedMap } };

const all = ["doc:read", "doc:write", "summary:write"];

/** Signs a token as an application's backend would. */
export function sign(server, documentId, { user = { id: "tester", name: "Tester" }, key = server.key, scopes = all, lifetime = 3600 } = {}) {
	const iat = Math.floor(Date.now() / 1000);
	return jwt.sign({ tenantId: server.tenantId, documentId, scopes, user, ver: "1.0", iat, exp: iat + lifetime, jti: randomUUID() }, key, { algorithm: "HS256" });
}

/** A new client; options are those of sign, and created is told of new containers. A server in local mode has the tenant of local mode. */
export function client(server, options) {
	const token = async (_, documentId) => ({ jwt: sign(server, documentId ?? "", options) });
	const connection = {
		endpoint: server.endpoint,
		tokenProvider: { fetchOrdererToken: token, fetchStorageToken: token, documentPostCreateCallback: options?.created },
	};
	return new AzureClient({
		connection: server.tenantId === "local" ? { type: "local", ...connection } : { type: "remote", tenantId: server.tenantId, ...connection },
	});
}

export async function createContainer(server, options) {
	const { container, services } = await client(server, options).createContainer(schema);
	container.initialObjects.map.set("made", "detached"); // in the first summary, not in an op
	const id = await container.attach();
	return { container, services, map: container.initialObjects.map, id };
}

export async function loadContainer(server, id, options) {
	const { container, services } = await client(server, options).getContainer(id, schema);
	return { container, services, map: container.initialObjects.map, id };
}

/** Waits until check() gives something true. */
export async function eventually(what, check, milliseconds = 20_000) {
	const deadline = Date.now() + milliseconds;
	for (;;) {
		const value = await check();
		if (value) return value;
		if (Date.now() > deadline) throw new Error(`not within ${milliseconds} ms: ${what}`);
		await new Promise((resolve) => setTimeout(resolve, 20));
	}
}

/** Waits until all local edits are acknowledged. */
export const saved = ({ container }) => eventually("all edits acknowledged", () => !container.isDirty);

export const content = ({ map }) => JSON.stringify([...map.entries()].sort());

/** All ops after a sequence number, asked plainly. */
export async function deltas(server, documentId, from = 0) {
	const ops = [];
	for (;;) {
		const response = await fetch(`${server.endpoint}/deltas/${server.tenantId}/${documentId}?from=${from}`, {
			headers: { Authorization: `Basic ${sign(server, documentId)}` },
		});
		if (response.status !== 200) throw new Error(`deltas answered ${response.status}: ${await response.text()}`);
		const page = await response.json();
		if (page.length === 0) return ops;
		ops.push(...page);
		from = page.at(-1).sequenceNumber;
	}
}
