// A proxy in whose network WebSockets do not work: it answers upgrades with 502 and
// passes everything else on.
import http from "node:http";

export async function withoutWebSockets(server) {
	const target = new URL(server.endpoint);
	const agent = new http.Agent({ keepAlive: true });
	const seen = { upgrades: 0, polls: 0, posts: 0 };
	const proxy = http.createServer((request, response) => {
		if (request.url.startsWith("/socket.io/")) seen[request.method === "POST" ? "posts" : "polls"]++;
		// The Host goes on as it came: the service names itself by it to its clients.
		const { url: path, method, headers } = request;
		const onward = http.request({ agent, host: target.hostname, port: target.port, path, method, headers }, (answer) => {
			response.writeHead(answer.statusCode, answer.headers);
			answer.pipe(response);
		});
		onward.on("error", () => response.destroy());
		response.on("close", () => onward.destroy());
		request.pipe(onward);
	});
	proxy.on("upgrade", (_, socket) => {
		seen.upgrades++;
		socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
	});
	await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
	const close = () => new Promise((resolve) => { proxy.close(resolve); proxy.closeAllConnections(); agent.destroy(); });
	// What tests ask of a server, through the proxy.
	return { endpoint: `http://127.0.0.1:${proxy.address().port}`, tenantId: server.tenantId, key: server.key, seen, close };
}
