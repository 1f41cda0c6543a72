package expr

import "fmt"

// SyntaxError tells why an expression cannot be accepted.
type SyntaxError struct {
	// Line and Column are where, from 1; columns are characters.
	Line, Column int
	// Message is what is wrong, with the remedy where it is plain.
	Message string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message) }

// Class is what kind of thing went wrong in an evaluation.
type Class string

// Classes of an EvaluationError.
const (
	// NoSuchAttribute is a field, header or descriptor that the request has not, or a key that a map has not.
	NoSuchAttribute Class = "no such attribute"
	// ValueTooLong is a value of the request of more than MaxValueBytes.
	ValueTooLong Class = "value too long"
	// CostExceeded is a loop that goes on for longer than it could be estimated to (see CostLimit).
	CostExceeded Class = "cost limit exceeded"
	// Overflow is a result that an integer does not hold.
	Overflow Class = "overflow"
	// DivisionByZero is a division or a remainder by zero.
	DivisionByZero Class = "division by zero"
	// OutOfRange is an index outside of a list or a string, or a cost outside of 0 to MaxCost.
	OutOfRange Class = "out of range"
	// BadConversion is a text that is no number, or a number that has no counterpart in the other type.
	BadConversion Class = "bad conversion"
	// Failed is everything else, such as a Lookup that panics.
	Failed Class = "evaluation failed"
)

// EvaluationError is an expression that has no value for a request. Nothing in it comes from the request.
type EvaluationError struct {
	Class Class
	// Line and Column are where in the expression, from 1; 0 where that is not known.
	Line, Column int
}

func (e *EvaluationError) Error() string {
	if e.Line == 0 {
		return string(e.Class)
	}
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Class)
}
