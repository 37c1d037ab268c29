#!/bin/sh
# Ops a second, latency and CPU per op of 1, 2 and 3 nodes on one PostgreSQL with a
# synchronous standby, all on this machine. From the top of the checkout, after 'make build':
#
#   sh e2e/cluster/bench.sh [duration] [documents] [writers of each]
#
# CPU is what the processes took while the load ran: nodes (with their embedded vault), database
# (primary and standby), load. On a machine of few cores they fight for them: read CPU per
# op, not ops a second.
set -eu
duration=${1:-20s} documents=${2:-60} writers=${3:-2}
tidelock=$PWD/bin/tidelock
pg=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -1)")
[ -x "$pg/initdb" ] || pg=$(dirname "$(command -v initdb)")
work=$(mktemp -d) port=${PGPORT:-54871}
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$work"
chmod 755 "$work"
started=
end() {
	for p in $started; do kill -TERM "$p" 2>/dev/null || true; done
	wait 2>/dev/null || true
	for d in standby primary; do as "$pg/pg_ctl" stop -s -m immediate -D "$work/$d" 2>/dev/null || true; done
	rm -rf "$work"
}
trap end EXIT
sql() { "$pg/psql" -qAt -h 127.0.0.1 -p "$port" -U postgres "$@"; }

cd "$work"
as "$pg/initdb" --auth=trust --username=postgres -D "$work/primary" >/dev/null
as "$pg/pg_ctl" start -s -w -D "$work/primary" -l "$work/primary.log" \
	-o "-p $port -k $work -c listen_addresses=127.0.0.1 -c shared_buffers=256MB -c max_connections=200 -c max_wal_size=4GB"
as "$pg/pg_basebackup" -h 127.0.0.1 -p "$port" -U postgres -D "$work/standby" -X stream -c fast -R
as "$pg/pg_ctl" start -s -w -D "$work/standby" -l "$work/standby.log" -o "-p $((port + 1)) -k $work -c listen_addresses=127.0.0.1 -c max_connections=200 \
	-c primary_conninfo=host=127.0.0.1\ port=$port\ user=postgres\ application_name=standby"
sql -c "ALTER SYSTEM SET synchronous_standby_names = 'standby'" -c "SELECT pg_reload_conf()" >/dev/null
sql -c "CREATE DATABASE bench"

# ticks of CPU that a process and its children, also those that ended, have taken
ticks() {
	total=0
	for p in "$@"; do
		for q in $p $(cat /proc/"$p"/task/*/children 2>/dev/null); do
			[ -r "/proc/$q/stat" ] || continue
			t=$(sed 's/.*) //' "/proc/$q/stat" | awk -v own="$([ "$q" = "$p" ] && echo 1)" '{print $12 + $13 + (own ? $14 + $15 : 0)}')
			total=$((total + t))
		done
	done
	echo $total
}
database() { ticks "$(head -1 primary/postmaster.pid)" "$(head -1 standby/postmaster.pid)"; }

node() { # number, command
	"$tidelock" "$2" --data "$work/node$1" --relay "127.0.0.$1:7470" --management "127.0.0.$1:8470" --direct-nodes \
		--store "postgres://postgres@127.0.0.1:$port/bench?sslmode=disable" >"$work/node$1.out" 2>"$work/node$1.err" &
	started="$started $!"
	eval "pid$1=$!"
	until grep -q "relay at\|is serving" "$work/node$1.out"; do kill -0 "$!" || { cat "$work/node$1.err"; exit 1; }; sleep 0.2; done
}

hz=$(getconf CLK_TCK)
nodes=
for n in 1 2 3; do
	if [ "$n" = 1 ]; then node 1 quickstart; else cp -r "$work/node1.keys" "$work/node$n.keys"; node "$n" serve; fi
	eval "nodes=\"\$nodes \$pid$n\""
	sleep 3 # until all have seen each other
	before=$(ticks $nodes) db=$(database) own=$(ticks $$)
	"$tidelock" bench --data "$work/node1" --documents "$documents" --writers "$writers" --duration "$duration" >"$work/report" 2>/dev/null
	after=$(ticks $nodes) dbafter=$(database) ownafter=$(ticks $$)
	echo "== $n node(s), $documents documents, $writers writers each, $duration"
	grep -v '^load\|^time' "$work/report"
	ops=$(awk '$1 == "sequenced" {print $2}' "$work/report")
	echo "$ops $((after - before)) $((dbafter - db)) $((ownafter - own)) $hz" | awk '{printf "CPU per op  nodes %.0f us  database %.0f us  load %.0f us; the database takes %.0f %% of what serves\n",
		$2/$5/$1*1e6, $3/$5/$1*1e6, $4/$5/$1*1e6, 100*$3/($2+$3)}'
	"$tidelock" node list --data "$work/node1"
done
