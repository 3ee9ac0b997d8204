import { CfnOutput, RemovalPolicy, Stack, type StackProps } from 'aws-cdk-lib';
import {
  Instance,
  InstanceClass,
  InstanceSize,
  InstanceType,
  MachineImage,
  Port,
  SecurityGroup,
  SubnetType,
  Vpc,
} from 'aws-cdk-lib/aws-ec2';
import { AccessPoint, CfnFileSystem, CfnMountTarget, FileSystem } from 'aws-cdk-lib/aws-efs';
import { ManagedPolicy, PolicyStatement, Role, ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import type { Construct } from 'constructs';

const mountActions = ['ClientMount', 'ClientRootAccess', 'ClientWrite'].map(
  (name) => `elasticfilesystem:${name}`,
);

const accessPointUsers = [
  { name: 'AccessPoint', path: '/app', uid: '1000' },
  { name: 'OtherAccessPoint', path: '/other', uid: '1001' },
];

/**
 * One instance with a role, one file system whose policy lets that role in and nobody else, two access points.
 *
 * The role itself grants no access to the file system: the file-system policy alone decides, as in the scenes. What it
 * may do besides is to exchange that policy between scenes, and to read what CloudTrail recorded.
 */
export class SettingStack extends Stack {
  constructor(scope: Construct, id: string, props: StackProps) {
    super(scope, id, props);
    const vpc = new Vpc(this, 'Network', {
      maxAzs: 1,
      natGateways: 0,
      subnetConfiguration: [{ name: 'public', subnetType: SubnetType.PUBLIC }],
    });
    const instanceGroup = new SecurityGroup(this, 'InstanceGroup', { vpc });
    const targetGroup = new SecurityGroup(this, 'TargetGroup', { vpc, allowAllOutbound: false });
    targetGroup.addIngressRule(instanceGroup, Port.tcp(2049), 'NFS from the instance');

    // Reached through Session Manager: no port of the instance is open.
    const role = new Role(this, 'Role', {
      assumedBy: new ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [ManagedPolicy.fromAwsManagedPolicyName('AmazonSSMManagedInstanceCore')],
    });
    const resource = new CfnFileSystem(this, 'FileSystem', {
      encrypted: true,
      fileSystemPolicy: {
        Version: '2012-10-17',
        Statement: [
          {
            Effect: 'Allow',
            Principal: { AWS: role.roleArn },
            Action: mountActions,
            Resource: '*',
            Condition: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
          },
        ],
      },
    });
    // It holds nothing but what the scenes wrote.
    resource.applyRemovalPolicy(RemovalPolicy.DESTROY);
    const target = new CfnMountTarget(this, 'Target', {
      fileSystemId: resource.ref,
      subnetId: vpc.publicSubnets[0]!.subnetId,
      securityGroups: [targetGroup.securityGroupId],
    });
    const fileSystem = FileSystem.fromFileSystemAttributes(this, 'ImportedFileSystem', {
      fileSystemId: resource.ref,
      securityGroup: targetGroup,
    });
    const accessPoints = accessPointUsers.map(({ name, path, uid }) => {
      const posixUser = { uid, gid: uid };
      const createAcl = { ownerUid: uid, ownerGid: uid, permissions: '0750' };
      const { accessPointId } = new AccessPoint(this, name, { fileSystem, path, posixUser, createAcl });
      return { id: accessPointId, uid };
    });
    role.addToPolicy(
      new PolicyStatement({
        actions: ['PutFileSystemPolicy', 'DeleteFileSystemPolicy', 'DescribeFileSystemPolicy'].map(
          (name) => `elasticfilesystem:${name}`,
        ),
        resources: [resource.attrArn],
      }),
    );
    // Events have no resource of their own to limit this to.
    role.addToPolicy(new PolicyStatement({ actions: ['cloudtrail:LookupEvents'], resources: ['*'] }));

    const instance = new Instance(this, 'Instance', {
      vpc,
      role,
      securityGroup: instanceGroup,
      instanceType: InstanceType.of(InstanceClass.T3, InstanceSize.MICRO),
      machineImage: MachineImage.latestAmazonLinux2023(),
      requireImdsv2: true,
      associatePublicIpAddress: true,
    });
    instance.node.addDependency(target);

    const outputs = {
      InstanceId: instance.instanceId,
      FileSystemId: resource.ref,
      AccessPointId: accessPoints[0]!.id,
      RoleArn: role.roleArn,
      TargetAddress: target.attrIpAddress,
      // To be run on the instance, where the program and what it compares with were copied to.
      Replay: [
        `sudo /usr/lib/efs-agent/bin/node replay.mjs --region ${this.region} --file-system ${resource.ref} --role ${role.roleArn}`,
        ...accessPoints.map(({ id, uid }) => `--access-point ${id}=${uid}`),
      ].join(' '),
    };
    for (const [name, value] of Object.entries(outputs)) new CfnOutput(this, name, { value });
  }
}
