# The guard of one embedded Postgres: starts it when asked, ends it when nobody uses it any more.
# $1: the home; $2: the socket's folder; $3: durable or volatile; $4: the number of a server that
# runs already, or nothing; then the command line of the server.
# Input: the FIFO that every user of the server holds open, with lines "start FILE" and
# "join FILE": the file is the answer, with the number of the server. Output: the file `alive`,
# whose lock this process and the server hold.
home=$1 sockets=$2 kind=$3 server=$4
shift 4
trap '' HUP INT QUIT TERM
echo $$ >"$home/guard.pid"
while read -r verb answer; do
    if [ "$verb" = start ]; then
        "$@" 3>&1 </dev/null >>"$home/server.log" 2>&1 &
        server=$!
    fi
    echo "$server" >"$home/$answer.new" && mv "$home/$answer.new" "$home/$answer"
done
# Nobody holds the FIFO any more. Who comes now finds it gone and waits for the end.
rm -f "$home/fifo"
if [ -n "$server" ]; then
    kill -INT "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    # A server that an earlier guard started cannot be waited for, and stays a zombie for as long
    # as process 1 likes; but it removes this file as its last act.
    tries=0
    while [ $tries -lt 600 ] && [ -e "$home/data/postmaster.pid" ] && kill -0 "$server" 2>/dev/null; do
        sleep 0.1
        tries=$((tries + 1))
    done
fi
rm -rf "$sockets" "$home"/answer.* "$home/guard.pid"
if [ "$kind" = volatile ]; then
    # In one go, so that nobody starts anew in a folder that is half removed.
    mv "$home" "$home.$$"
    # An initdb whose caller was killed may still write for a moment.
    rm -rf "$home.$$" 2>/dev/null || { sleep 1; rm -rf "$home.$$"; }
fi
