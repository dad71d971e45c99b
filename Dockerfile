# Three stages: what runs (dependencies), what compiles (build), and the image itself, which has
# neither compiler nor tests. Plain Dockerfile syntax: BuildKit and the classic builder both take it.

# Dependencies come before the sources, so that a changed source file reinstalls nothing.
# No dependency needs its install script; leaving scripts out keeps other people's code from
# running at build time.
FROM node:24-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
COPY clients/typescript/package.json ./clients/typescript/
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && npm cache clean --force

FROM node:24-bookworm-slim AS build
# For the native inner loops; the image itself gets what it makes, and no compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json ./
COPY clients/typescript/package.json ./clients/typescript/
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY scripts ./scripts
COPY openapi ./openapi
COPY workers ./workers
COPY native ./native
COPY clients/typescript ./clients/typescript
COPY web ./web
COPY src ./src
RUN npm run build
# The guide, which is made of the documents alone.
COPY docs ./docs
COPY clients/python/README.md ./clients/python/
RUN npm ci --prefix docs --ignore-scripts --no-audit --no-fund && npm run --prefix docs build

FROM node:24-bookworm-slim
LABEL org.opencontainers.image.title="loragrad" \
      org.opencontainers.image.description="LoRA gradients of attention layers over HTTP, with error bars and the efficiency-threshold verdict" \
      org.opencontainers.image.licenses="MIT"
# The last two: memory that is free goes back to the system, whichever thread had it.
ENV NODE_ENV=production \
    HOST=0.0.0.0 \
    PORT=3000 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=131072
WORKDIR /app
# The files belong to root and the process does not: the service cannot rewrite itself. It writes
# nothing to disk, so the root file system may be read-only.
COPY package.json ./
COPY --from=dependencies /app/node_modules ./node_modules
COPY openapi/openapi.json openapi/answers.json ./openapi/
COPY openapi/page ./openapi/page
COPY --from=build /app/dist/workers ./dist/workers
COPY --from=build /app/dist/native/kernels.node ./dist/native/
COPY --from=build /app/dist/chunks ./dist/chunks
COPY --from=build /app/dist/src ./dist/src
COPY --from=build /app/dist/web ./dist/web
COPY --from=build /app/dist/guide ./dist/guide
USER node
EXPOSE 3000
# Ready means: worker threads warm, and not draining.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["node", "-e", "fetch(`http://127.0.0.1:${Number(process.env.LORAGRAD_METRICS_PORT) || process.env.PORT}/health/ready`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# No shell and no npm in between: node is process 1 and gets SIGTERM itself, on which it finishes
# the requests in hand and exits with 0. `docker stop -t` must leave it the time.
STOPSIGNAL SIGTERM
# With the argument worker it runs parts of large problems for other containers.
ENTRYPOINT ["node", "dist/src/cli.js"]
