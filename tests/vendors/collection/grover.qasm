OPENQASM 3.0;
include "stdgates.inc";
gate ccz a,b,c { h c; ccx a,b,c; h c; }
qubit[3] q; bit[3] out;
h q;
for int i in [0:1] {
  x q[1]; ccz q[0],q[1],q[2]; x q[1];
  h q; x q; ccz q[0],q[1],q[2]; x q; h q;
}
out = measure q;
