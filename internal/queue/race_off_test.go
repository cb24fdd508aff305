//go:build !race

package queue

// underRace thins out the crash tests where each step costs ten times as much.
const underRace = false
