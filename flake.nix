# `nix run .` builds and runs lockgate; `nixosModules.default` has it as a service.
# `nix flake lock` pins nixpkgs; a release commits the lock file that it was built with.
{
  description = "A forward and reverse HTTP proxy that keeps a whole fleet of callers under a hard limit";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      forEach = nixpkgs.lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      manifest = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).package;
      build =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = manifest.name;
          inherit (manifest) version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          buildType = "dist";
          nativeBuildInputs = [ pkgs.installShellFiles ];
          # The tests start servers and browsers, which a build of Nix has not: tests/run runs them.
          doCheck = false;
          postInstall = ''
            installShellCompletion --cmd lockgate \
              --bash <($out/bin/lockgate completions bash) \
              --zsh <($out/bin/lockgate completions zsh) \
              --fish <($out/bin/lockgate completions fish)
            $out/bin/lockgate man man
            installManPage man/*.1
          '';
          meta = {
            inherit (manifest) description;
            license = with pkgs.lib.licenses; [
              mit
              asl20
            ];
            platforms = pkgs.lib.platforms.linux;
            mainProgram = "lockgate";
          };
        };
    in
    {
      packages = forEach (system: {
        default = build nixpkgs.legacyPackages.${system};
      });

      nixosModules.default =
        {
          config,
          lib,
          pkgs,
          ...
        }:
        let
          options = config.services.lockgate;
          format = pkgs.formats.toml { };
        in
        {
          options.services.lockgate = {
            enable = lib.mkEnableOption "lockgate, a rate-limiting HTTP proxy";
            package = lib.mkOption {
              type = lib.types.package;
              default = build pkgs;
              description = "The package that the service runs.";
            };
            settings = lib.mkOption {
              inherit (format) type;
              default = { };
              description = "Content of proxy.toml.";
            };
          };

          config = lib.mkIf options.enable {
            users.users.lockgate = {
              isSystemUser = true;
              group = "lockgate";
            };
            users.groups.lockgate = { };
            environment.systemPackages = [ options.package ];
            environment.etc."lockgate/proxy.toml".source = format.generate "proxy.toml" options.settings;
            # The unit that all packages install, with the paths of this system.
            systemd.packages = [
              (pkgs.runCommand "lockgate-unit" { } ''
                mkdir -p $out/lib/systemd/system
                sed "s|/usr/bin/lockgate|${lib.getExe options.package}|" ${./packaging/systemd/lockgate.service} \
                  > $out/lib/systemd/system/lockgate.service
              '')
            ];
            systemd.services.lockgate = {
              wantedBy = [ "multi-user.target" ];
              reloadTriggers = [ config.environment.etc."lockgate/proxy.toml".source ];
            };
          };
        };
    };
}
