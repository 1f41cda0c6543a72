// Package crd embeds the CustomResourceDefinitions, so that the command line can apply their rules without a cluster.
package crd

import "embed"

// Bases holds bases/*.yaml, as `make manifests` generates them from api/.
//
//go:embed bases/*.yaml
var Bases embed.FS
