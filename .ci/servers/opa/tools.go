//go:build tools

// Package tools names what opa.sh builds, so that go.mod and go.sum pin all of it.
package tools

import _ "github.com/open-policy-agent/opa/cmd"
