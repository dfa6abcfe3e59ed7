//! Compiles the protocol without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let files = ["grid", "runs", "stats", "plan"].map(|name| format!("../proto/loadgrid/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["../proto"])?;
    tonic_prost_build::configure().bytes(".loadgrid.v1").compile_fds(descriptors)?;
    Ok(())
}
