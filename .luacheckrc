-- The Lua that Redis runs: 5.1, with the server's own libraries and no others.
std = "lua51"
max_line_length = false -- nor has Go code a limit
read_globals = {
  "redis", "cjson", "cmsgpack", "struct", "bit",
  "KEYS", "ARGV", -- scripts only; in a function they are arguments
}

-- Outside of what a script may use, or different on a cluster's replicas.
not_globals = { "os", "io", "print", "require", "dofile", "loadfile", "table.maxn" }
