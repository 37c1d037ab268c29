// Package activity is the activity log: who asked for which management write, and how
// it ended, as the resource provider Microsoft.Insights shows it.
//
// Events are sealed rows. A subscription's log keeps the newest MaxEvents of the last 90
// days; older ones are dropped. An event that cannot be stored does not undo the write it
// is about: the server's own log has both.
package activity
