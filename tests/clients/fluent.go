// A client with fluent-logger-golang, which Docker's logging driver has: fluent PORT WORKERS
// Each worker sends numbers of its own over a connection of its own, one after the other, each
// until it is acknowledged, and ends when standard input does. Prints "+NUMBER" for each.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
)

const each = 1000000

func main() {
	port, _ := strconv.Atoi(os.Args[1])
	workers, _ := strconv.Atoi(os.Args[2])
	var stopped int32
	go func() {
		io.Copy(io.Discard, os.Stdin)
		atomic.StoreInt32(&stopped, 1)
	}()
	var all sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			logger, err := fluent.New(fluent.Config{
				FluentHost: "127.0.0.1", FluentPort: port, RequestAck: true,
				SubSecondPrecision: true, MaxRetry: 10000, RetryWait: 20, MaxRetryWait: 200,
				WriteTimeout: 3 * time.Second,
			})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			for n := 0; atomic.LoadInt32(&stopped) == 0; n++ {
				number := worker*each + n
				if err := logger.Post("docker", map[string]interface{}{"number": number}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("+%d\n", number)
			}
			logger.Close()
		}(worker)
	}
	all.Wait()
}
