// A real Tidelock process with a data directory of its own.
import { spawn, execFile } from "node:child_process";
import { createServer } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const binary = process.env.TIDELOCK_BIN;
if (!binary) throw new Error("TIDELOCK_BIN is not set: run 'make clients'");

const run = promisify(execFile);

async function freePort() {
	const probe = createServer();
	await new Promise((resolve) => probe.listen(0, "127.0.0.1", resolve));
	const { port } = probe.address();
	await new Promise((resolve) => probe.close(resolve));
	return port;
}

export class Server {
	/** Makes a data directory and sets it up with quickstart; flags are for this and every later start. */
	static async create(...flags) {
		const server = new Server();
		server.flags = flags;
		server.root = mkdtempSync(join(tmpdir(), "tidelock-e2e-"));
		server.data = join(server.root, "data");
		server.relay = `127.0.0.1:${await freePort()}`;
		server.management = `127.0.0.1:${await freePort()}`;
		await server.start("quickstart");
		const { stdout } = await server.cli("relay", "show", "--output", "json");
		const resource = JSON.parse(stdout);
		server.resource = resource;
		server.endpoint = resource.properties.fluidRelayEndpoints.serviceEndpoints[0];
		server.tenantId = resource.properties.frsTenantId;
		const keys = JSON.parse((await server.cli("relay", "keys", "--output", "json")).stdout);
		server.key = keys.key1;
		server.key2 = keys.key2;
		return server;
	}

	/** Starts the process, with flags for this time only, and waits until it says that it serves. */
	async start(command = "serve", ...flags) {
		const child = spawn(
			binary,
			[command, "--data", this.data, "--relay", this.relay, "--management", this.management, ...this.flags, ...flags],
			{ stdio: ["ignore", "pipe", "pipe"] },
		);
		this.child = child;
		this.log = "";
		child.stderr.on("data", (chunk) => (this.log += chunk));
		await new Promise((resolve, reject) => {
			let out = "";
			child.stdout.on("data", (chunk) => {
				out += chunk;
				if (/relay at|is serving/.test(out)) resolve();
			});
			child.once("exit", (code) => reject(new Error(`tidelock ${command} ended with ${code}: ${this.log}`)));
		});
	}

	/** Stops the process as Ctrl-C does and waits for its end. */
	async stop(signal = "SIGINT") {
		const child = this.child;
		if (!child || child.exitCode !== null || child.signalCode !== null) return;
		const ended = new Promise((resolve) => child.once("exit", resolve));
		child.kill(signal);
		const code = await ended;
		if (signal === "SIGINT" && code !== 0) throw new Error(`tidelock ended with ${code}: ${this.log}`);
	}

	/** Runs a command of the binary against this server. */
	cli(...args) {
		return run(binary, [...args, "--data", this.data]);
	}

	async remove() {
		await this.stop();
		rmSync(this.root, { recursive: true, force: true });
	}
}
