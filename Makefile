# One entry point for everything a developer runs; `make help` lists it.
BUF  := go run github.com/bufbuild/buf/cmd/buf@v1.75.0
LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FMT  := go run mvdan.cc/gofumpt@v0.12.0

.PHONY: help run test race lint fmt generate wire bench soak soak-gc bench-retention build ci

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: ## start pachd with the heartbeat spout
	go run ./cmd/pachd --apply examples/heartbeat/pipeline.json

build: ## static binaries in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/pachd ./cmd/pachctl

test: ## the tests, under 5 minutes
	go test ./...

race: ## the tests with the race detector
	go test -race -timeout 30m ./...

lint: ## buf lint, go vet, golangci-lint
	$(BUF) lint
	go vet ./...
	$(LINT) run ./...

fmt: ## format the Go code
	$(FMT) -w $$(git ls-files '*.go' | grep -v '\.pb\.')

generate: ## regenerate everything that comes from proto/
	$(BUF) generate

wire: ## check proto/ against the wire contract beside this checkout
	$(BUF) build -o image.binpb
	cd ../shared/wire/check && go run . -image "$(CURDIR)/image.binpb" ../core.tsv

bench: ## measure, each figure beside its floor (see docs/performance.md)
	go run ./bench

bench-retention: ## measure how 10,000 commits go by spout.retention, and what writers feel of it
	go test ./server -run RetentionBesideWriters -count 1 -v -retention.commits 10000 -timeout 20m

soak: ## kill, stop and freeze daemons again and again and check every guarantee
	go test ./server -run Soak_Spouts -count 1 -v -soak 10m -timeout 30m
	go test ./server -run 'Kill|Share|Follow_' -count 1 -v -kill.rounds 100 -share.rounds 60 -follow.rounds 100 -timeout 240m
	go test ./pps/scheduler -run Flood -count 1 -v -flood.for 1m -timeout 10m

soak-gc: ## collect garbage under load and kill -9 for 10 minutes
	go test ./server -run GCSoak -count 1 -v -gc.soak 10m -timeout 30m

ci: ## what CI runs
	.ci/run
