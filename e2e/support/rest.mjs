// The REST face, asked plainly.
import { sign } from "./client.mjs";

/** One request of the orderer's face. */
export function orderer(server, documentId, path, options = {}) {
	return fetch(server.endpoint + path, {
		...options,
		headers: { Authorization: `Basic ${sign(server, documentId, options.claims)}`, "Content-Type": "application/json", ...options.headers },
	});
}

/** One request of the storage face. */
export function storage(server, documentId, path, options = {}) {
	const token = Buffer.from(`${server.tenantId}:${sign(server, documentId, options.claims)}`).toString("base64");
	return fetch(server.endpoint + path, {
		...options,
		headers: { Authorization: `Basic ${token}`, "Content-Type": "application/json", ...options.headers },
	});
}

/** All ops after a sequence number. */
export async function deltas(server, documentId, from = 0) {
	const all = [];
	for (;;) {
		const response = await orderer(server, documentId, `/deltas/${server.tenantId}/${documentId}?from=${from}&to=${from + 2001}`);
		if (response.status !== 200) throw new Error(`deltas answered ${response.status}: ${await response.text()}`);
		const page = await response.json();
		if (page.length === 0) return all;
		all.push(...page);
		from = page.at(-1).sequenceNumber;
	}
}
