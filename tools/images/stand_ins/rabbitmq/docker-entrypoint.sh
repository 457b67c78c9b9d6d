#!/bin/sh
# Starts what it is given. As root, the server and its tools first become the user rabbitmq, who then owns the data;
# under any other user nothing is changed, so that a read-only root file system is enough.
set -eu

case "$1" in
rabbitmq*)
    if [ "$(id -u)" = 0 ]; then
        if [ "$1" = rabbitmq-server ]; then
            find "$RABBITMQ_DATA_DIR" ! -user rabbitmq -exec chown rabbitmq {} +
        fi
        exec gosu rabbitmq "$0" "$@"
    fi
    ;;
esac

# A host with a domain needs long Erlang node names, or the members of a cluster do not find each other.
if [ -z "${RABBITMQ_USE_LONGNAME:-}" ] && [ "$(hostname)" != "$(hostname -s)" ]; then
    export RABBITMQ_USE_LONGNAME=true
fi

exec "$@"
