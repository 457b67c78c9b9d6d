// The etcd server as a program: its own module builds the same, but carries clients and tools that are not needed here.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
