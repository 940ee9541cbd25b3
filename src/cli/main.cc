#include "cli/app.hpp"

int main(int argc, char** argv) {
  return photon::cli::run(argc, argv);
}
